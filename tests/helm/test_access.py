from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helm.cases import CASES, GMAIL
from tests.helm.release import NAMESPACE, Helm, HelmError, Manifest, one, ours, pod, pods, sidecar

API = "token-sidecar-kube-api-access"
ALICE = "basketball-alice-smith-285cf54b"
"""The Secret of the token Alice_Smith, which is no name for one; test_cluster.py compares with the store's own."""
STATE = ["get", "patch"]


@pytest.fixture(scope="module")
def kubernetes(helm: Helm, app: Path) -> list[Manifest]:
    """Render the example with its records in Secrets."""
    return helm.template(app, CASES["kubernetes"])


@pytest.fixture(scope="module")
def any_config(chart: Path) -> Path:
    """Give the chart with a schema that takes every configuration, those of versions to come included."""
    copied = chart.with_name("any-config")
    shutil.copytree(chart, copied)
    file = copied / "values.schema.json"
    schema = json.loads(file.read_text(encoding="utf-8"))
    schema["definitions"]["ConfigFile"] = {"type": "object"}
    file.write_text(json.dumps(schema), encoding="utf-8")
    return copied


def access(manifests: list[Manifest]) -> dict[str, list[tuple[str, tuple[str, ...], list[str]]]]:
    """Tell what the Roles allow, by namespace: resource, names and verbs."""
    return {
        role["metadata"]["namespace"]: [
            (rule["resources"][0], tuple(rule["resourceNames"]), rule["verbs"]) for rule in role["rules"]
        ]
        for role in manifests
        if role["kind"] == "Role"
    }


def test_state_secrets_are_made_without_data(kubernetes: list[Manifest]) -> None:
    """One for each token, empty and kept: no tool that applies the chart owns what the daemon writes into it."""
    secrets = [manifest for manifest in kubernetes if manifest["kind"] == "Secret"]

    assert {secret["metadata"]["name"] for secret in secrets} == {
        "basketball-gmail",
        ALICE,
    }
    for secret in secrets:
        assert set(secret) == {"apiVersion", "kind", "metadata", "type"}
        assert secret["type"] == "Opaque"
        assert secret["metadata"]["namespace"] == NAMESPACE
        assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_role_allows_the_state_secrets_alone(kubernetes: list[Manifest]) -> None:
    """Four verbs on Secrets that are named; nothing may be created, listed or deleted, and nothing else be read."""
    names = tuple(sorted(["basketball-gmail", ALICE]))

    assert access(kubernetes) == {NAMESPACE: [("secrets", names, STATE)]}
    binding = one(kubernetes, "RoleBinding")
    assert binding["roleRef"]["name"] == one(kubernetes, "Role")["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "basketball-token-sidecar", "namespace": NAMESPACE}
    ]
    assert pod(kubernetes)["spec"]["serviceAccountName"] == "basketball-token-sidecar"
    assert one(kubernetes, "ServiceAccount")["automountServiceAccountToken"] is False


def test_everything_in_kubernetes_is_allowed_by_name(helm: Helm, any_config: Path) -> None:
    """Outputs, seeds and restarts get a Role in the namespace that they name, and no more than they need."""
    config: dict[str, Any] = {
        "store": {"url": "kubernetes://${POD_NAMESPACE}/state"},
        "defaults": {"seed": {"kubernetes_secret": {"name": "seeds"}}},
        "tokens": {
            "gmail": {
                "outputs": [
                    {"file": "/run/tokens/gmail.json"},
                    {"kubernetes_secret": {"namespace": "pal-e-mail", "name": "gmail-oauth", "key": "a"}},
                    {"kubernetes_secret": {"namespace": "pal-e-mail", "name": "gmail-oauth", "key": "b"}},
                    {"kubernetes_secret": {"name": "here", "key": "c"}},
                ],
                "after_refresh": [
                    {"http": {"url": "http://127.0.0.1:8080/-/reload"}},
                    {"rollout_restart": {"namespace": "pal-e-mail", "deployment": "mailer"}},
                    {"rollout_restart": {"statefulset": "queue"}},
                    {"rollout_restart": {"namespace": "agents", "daemonset": "agent"}},
                ],
            },
            "own": {"seed": {"file": "/etc/oauth/own"}},
        },
    }
    manifests = helm.template(any_config, {"serviceAccount": {"name": "app"}, "config": config})

    assert access(manifests) == {
        NAMESPACE: [
            ("secrets", ("state-gmail", "state-own"), STATE),
            ("secrets", ("here",), ["get", "patch"]),
            ("secrets", ("seeds",), ["get"]),
            ("statefulsets", ("queue",), ["get", "patch"]),
        ],
        "agents": [("daemonsets", ("agent",), ["get", "patch"])],
        "pal-e-mail": [
            ("secrets", ("gmail-oauth",), ["get", "patch"]),
            ("deployments", ("mailer",), ["get", "patch"]),
        ],
    }
    bindings = [one for one in manifests if one["kind"] == "RoleBinding"]
    assert {binding["metadata"]["namespace"] for binding in bindings} == {NAMESPACE, "agents", "pal-e-mail"}
    assert {binding["subjects"][0]["namespace"] for binding in bindings} == {NAMESPACE}


def names_elsewhere(helm: Helm, chart: Path, namespace: str, **values: Any) -> list[str]:
    """Name the Roles and what binds to them, of a release that writes into another namespace."""
    output = {"kubernetes_secret": {"namespace": "elsewhere", "name": "x", "key": "y"}}
    here = {"kubernetes_secret": {"name": "x", "key": "y"}}
    config = {"tokens": {"a": {**GMAIL, "outputs": [output, here]}}}
    manifests = helm.template(
        chart, {"serviceAccount": {"name": "app"}, "config": config, **values}, namespace=namespace
    )
    roles, bindings = (
        {found["metadata"]["namespace"]: found for found in manifests if found["kind"] == kind}
        for kind in ("Role", "RoleBinding")
    )
    assert set(roles) == {namespace, "elsewhere"}
    names = {place: role["metadata"]["name"] for place, role in roles.items()}
    assert names == {place: binding["metadata"]["name"] for place, binding in bindings.items()}
    assert names == {place: binding["roleRef"]["name"] for place, binding in bindings.items()}
    return [names[namespace], names["elsewhere"]]


def test_releases_of_one_name_meet_elsewhere(helm: Helm, chart: Path) -> None:
    """In a namespace that isn't the release's own, its own is in the name: no other release takes the Role over."""
    own = "basketball-token-sidecar"

    assert names_elsewhere(helm, chart, "one") == [own, f"{own}-one"]
    assert names_elsewhere(helm, chart, "two") == [own, f"{own}-two"]


@pytest.mark.parametrize(
    ("length", "namespace", "short"),
    [(59, "one", None), (60, "one", "n" * 54), (53, "a-long-namespace", "n" * 53)],
)
def test_a_name_that_is_too_long_ends_with_a_digest(
    helm: Helm, chart: Path, length: int, namespace: str, short: str | None
) -> None:
    """63 characters are kept whole; of more, the first 54 and a digest of all, as `render` has it."""
    name = "n" * length
    whole = f"{name}-{namespace}"
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]

    found = names_elsewhere(helm, chart, namespace, fullnameOverride=name)

    assert found == [name, f"{short}-{digest}" if short else whole]


def test_a_tokens_own_seed_takes_nothing_from_the_default(helm: Helm, any_config: Path) -> None:
    """As in the daemon: a token's own key replaces the default whole, and so does what it allows."""
    config = {
        "defaults": {"seed": {"kubernetes_secret": {"name": "seeds"}}},
        "tokens": {"own": {"seed": {"file": "/etc/oauth/own"}}},
    }

    assert access(helm.template(any_config, {"config": config})) == {}


@pytest.mark.parametrize(
    "config",
    [
        {"tokens": {"a": {"outputs": [{"kubernetes_secret": {"name": "x", "key": "y"}}]}}},
        {"tokens": {"a": {"seed": {"kubernetes_secret": {"name": "x"}}}}},
        {"tokens": {"a": {"after_refresh": [{"rollout_restart": {"deployment": "x"}}]}}},
        {"store": "kubernetes://ns/x", "tokens": {"a": {}}},
    ],
)
def test_only_the_sidecar_gets_the_accounts_token(
    helm: Helm, any_config: Path, config: dict[str, Any]
) -> None:
    """Each use of Kubernetes puts the token into the sidecar, and into no other container."""
    for _, found in pods(helm.template(any_config, {"serviceAccount": {"name": "app"}, "config": config})):
        [volume] = [volume for volume in found["spec"]["volumes"] if volume["name"] == API]
        sources = [next(iter(source)) for source in volume["projected"]["sources"]]
        assert sources == ["serviceAccountToken", "configMap", "downwardAPI"]
        holders = [
            container["name"]
            for container in [*found["spec"]["initContainers"], *found["spec"]["containers"]]
            if API in {mount["name"] for mount in container["volumeMounts"]}
        ]
        assert holders == ["token-sidecar"]


@pytest.mark.parametrize("case", ["deployment", "postgres", "classic", "mesh"])
def test_who_needs_no_permission_gets_none(helm: Helm, app: Path, case: str) -> None:
    """Without anything in Kubernetes there is no Role, no account and no token."""
    manifests = helm.template(app, CASES[case])

    assert {one["kind"] for one in manifests} == {"ConfigMap", "Deployment", "Pod"}
    assert API not in {mount["name"] for mount in ours(pod(manifests))["volumeMounts"]}
    assert API not in {volume["name"] for volume in pod(manifests)["spec"]["volumes"]}


def test_the_token_can_be_had_or_refused(helm: Helm, app: Path) -> None:
    """`always` and `never` overrule what follows from the configuration."""
    always = {"token-sidecar": {"serviceAccountToken": {"mount": "always"}}}
    never = {
        "token-sidecar": {**CASES["kubernetes"]["token-sidecar"], "serviceAccountToken": {"mount": "never"}}
    }

    assert API in {mount["name"] for mount in sidecar(pod(helm.template(app, always)))["volumeMounts"]}
    assert API not in {mount["name"] for mount in sidecar(pod(helm.template(app, never)))["volumeMounts"]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": {"store": "kubernetes://ns/x"}}, "serviceAccount.name: name the ServiceAccount"),
        ({"config": {"store": "kubernetes://ns"}}, "is no kubernetes://NAMESPACE/PREFIX"),
        ({"config": {"store": "kubernetes://${WHERE}/x"}}, "knows no variable but ${POD_NAMESPACE}"),
        ({"config": {"tokens": None}}, "config.tokens: is empty"),
        ({"config": {"server": {"port": "${PORT}"}}}, "config.server.port"),
        ({"config": {"server": {"port": 0}}}, "config.server.port"),
        ({"config": {"server": {"host": "127.0.0.1"}}}, "probeHandler: exec"),
        ({"config": {"state_dir": "state"}}, "config.state_dir"),
        (
            {"config": {"tokens": {"gmail": {"outputs": [{"file": "/run/tokens2/x"}]}}}},
            "output /run/tokens2/x",
        ),
        (
            {
                "config": {
                    "defaults": {"outputs": [{"file": "x"}]},
                    "tokens": {"more": {"provider": "google"}},
                }
            },
            "output x",
        ),
    ],
)
def test_what_cant_work_is_refused(helm: Helm, app: Path, values: dict[str, Any], said: str) -> None:
    """Rendering fails with the value's name and the way out, before anything reaches a cluster."""
    with pytest.raises(HelmError) as caught:
        helm.text(app, {"token-sidecar": values})

    assert said in str(caught.value)


@pytest.mark.parametrize("file", ["/run/tokens/deep/er.json", "${FOLDER}/token.json", "/more/token.json"])
def test_files_in_mounted_places_are_fine(helm: Helm, app: Path, file: str) -> None:
    """Below the tokens' directory, below any other mount, and where only the daemon will know."""
    values = {
        "config": {"tokens": {"gmail": {"outputs": [{"file": file}]}}},
        "extraVolumes": {"more": {"emptyDir": {"medium": "Memory"}}},
        "extraVolumeMounts": {"more": {"mountPath": "/more/"}},
    }

    assert file in helm.text(app, {"token-sidecar": values})
