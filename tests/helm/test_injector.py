"""The chart that injects: its policies' CEL is run for real, on Google's CEL library (see admission.py)."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import documents, pss, schemas
from tests.helm.admission import Admission, Refused
from tests.helm.release import Helm, HelmError, Manifest, one

GOLDEN = Path(__file__).parent / "injector.yaml"
ON_136 = ("1.36", "1.37")
GIVEN: Manifest = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "mail", "namespace": "default", "labels": {"token-sidecar/parameters": "true"}},
    "data": {"config.yaml": "tokens: {}\n"},
}
MOUNT = {"name": "token-sidecar-tokens", "mountPath": "/run/tokens", "readOnly": True}


def pod(*containers: Manifest, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """Write a pod that asks for a sidecar."""
    found = [{"name": "app", "image": "app:1"}, *containers]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "app-", "labels": {"token-sidecar/inject": "mail", **(labels or {})}},
        "spec": {"containers": found, **spec},
    }


def given(**data: str) -> Manifest:
    """Write the ConfigMap with some parameters."""
    return {**GIVEN, "data": {**GIVEN["data"], **data}}


def names(items: list[Any]) -> list[str]:
    """Name what is in a list."""
    return [one["name"] for one in items]


@pytest.fixture(scope="session")
def policies(helm: Helm, injector: Path) -> list[Manifest]:
    """Render the chart as it is."""
    return helm.template(injector)


@pytest.fixture(scope="session")
def admission(policies: list[Manifest]) -> Admission:
    """Give an API server with the chart's policies as they are."""
    return Admission(policies)


def test_the_policies_are_the_ones_that_were_looked_at(helm: Helm, injector: Path) -> None:
    """What a change does to them is seen in its diff; `make chart` takes it over."""
    rendered = helm.text(injector)
    if os.environ.get("TOKEN_SIDECAR_WRITE_GOLDEN"):
        GOLDEN.write_text(rendered, encoding="utf-8")
    assert rendered == GOLDEN.read_text(encoding="utf-8"), "take it over with: make chart"


@pytest.mark.parametrize("release", ON_136)
def test_the_releases_that_inject_accept_them(policies: list[Manifest], release: str) -> None:
    """Neither policy nor binding has an unknown or misspelt field, and nothing else is rendered."""
    kinds = ["MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"]
    assert sorted(one["kind"] for one in policies) == sorted([*kinds, *(f"{kind}Binding" for kind in kinds)])
    assert [said for one in policies for said in schemas.mistakes(one, release)] == []


CHOICES = {
    "failurePolicy": {"Fail", "Ignore"},
    "reinvocationPolicy": {"Never", "IfNeeded"},
    "matchPolicy": {"Exact", "Equivalent"},
    "patchType": {"JSONPatch", "ApplyConfiguration"},
    "parameterNotFoundAction": {"Allow", "Deny"},
    "operator": {"In", "NotIn", "Exists", "DoesNotExist"},
    "scope": {"Namespaced", "Cluster", "*"},
}


def test_every_choice_is_one_that_there_is(policies: list[Manifest]) -> None:
    """The schemas know no choices, and an API server would refuse a misspelt one."""
    found = [
        (key, value)
        for one in policies
        for key, value in re.findall(r"^\W*(\w+): (\S+)$", yaml.safe_dump(one), re.MULTILINE)
    ]
    assert {key for key, _ in found} >= set(CHOICES)
    assert [(key, value) for key, value in found if value not in CHOICES.get(key, {value})] == []


def test_whatever_a_literal_holds_is_dyn(policies: list[Manifest]) -> None:
    """Kubernetes refuses maps and lists of mixed types, which the library here would take."""
    spec = one(policies, "MutatingAdmissionPolicy")["spec"]
    lines = [line.strip() for one in spec["variables"] for line in one["expression"].splitlines()]
    members = [line for line in lines if re.match(r'"[^"]*":', line)]
    items = [line for line in lines if line.endswith("),") and line not in members and line != "}),"]
    assert len(members) > 50
    assert [line for line in members if not re.match(r'"[^"]*": dyn\(', line)] == []
    assert [line for line in items if not line.startswith(("dyn(", "])"))] == []
    assert "Object" not in str(spec), "1.36.2 panics at a list of these in a JSON patch"


def test_a_cluster_that_cannot_inject(helm: Helm, injector: Path) -> None:
    """Where the API isn't served, the chart isn't installed, and says what does without."""
    with pytest.raises(
        HelmError, match=r"doesn't serve MutatingAdmissionPolicy .* `token-sidecar render kustomize`"
    ):
        helm.run("template", "x", str(injector), "--kube-version", "1.36.0")
    with pytest.raises(HelmError, match="kubeVersion"):
        helm.template(injector, kubernetes="1.35.0")


# What becomes of pods


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"initContainers": [], "volumes": []},
        {
            "initContainers": [{"name": "migrate", "image": "app:1"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
        {"restartPolicy": "Never", "automountServiceAccountToken": False},
    ],
    ids=["nothing", "empty", "others", "job"],
)
def test_whatever_a_pod_has_already(admission: Admission, spec: Manifest) -> None:
    """Lists that are absent, empty or filled get the sidecar, first, and lose nothing."""
    before = pod(**copy.deepcopy(spec))
    after = admission.admit(before, [GIVEN])

    own = names(spec.get("initContainers", []))
    assert names(after["spec"]["initContainers"]) == ["token-sidecar", *own]
    volumes = [f"token-sidecar-{kind}" for kind in ("tokens", "state", "config")]
    assert names(after["spec"]["volumes"]) == [*names(spec.get("volumes", [])), *volumes]
    assert after["spec"]["containers"] == [{"name": "app", "image": "app:1", "volumeMounts": [MOUNT]}]
    assert after["metadata"] == before["metadata"]
    kept = {"restartPolicy", "automountServiceAccountToken"}
    assert {key: after["spec"].get(key) for key in kept} == {key: spec.get(key) for key in kept}


def test_every_container_of_the_application_reads(admission: Admission) -> None:
    """Each gets the mount, whatever it mounts already, and one that mounts the tokens elsewhere stays so."""
    own = {**MOUNT, "mountPath": "/var/elsewhere"}
    data = {"name": "data", "mountPath": "/data"}
    after = admission.admit(
        pod(
            {"name": "empty", "image": "b", "volumeMounts": []},
            {"name": "full", "image": "c", "volumeMounts": [data]},
            {"name": "own", "image": "d", "volumeMounts": [data, own]},
        ),
        [GIVEN],
    )
    mounts = {one["name"]: one["volumeMounts"] for one in after["spec"]["containers"]}
    assert mounts == {"app": [MOUNT], "empty": [MOUNT], "full": [data, MOUNT], "own": [data, own]}


def test_only_the_containers_that_are_named_read(admission: Admission) -> None:
    """With `containers` the others are left as they are."""
    more = [{"name": name, "image": "x"} for name in ("worker", "proxy")]
    after = admission.admit(pod(*copy.deepcopy(more)), [given(containers="app, worker")])
    assert ["volumeMounts" in one for one in after["spec"]["containers"]] == [True, True, False]


@pytest.mark.parametrize("kind", ["initContainers", "containers"])
def test_a_pod_that_has_a_sidecar_is_left_alone(admission: Admission, kind: str) -> None:
    """Whoever put it there, native or not: not a byte is changed."""
    there = {"name": "token-sidecar", "image": "mine:1"}
    before = pod(there) if kind == "containers" else pod(initContainers=[there])
    assert admission.admit(before, [GIVEN]) == before


def test_twice_is_once(admission: Admission) -> None:
    """A pod that comes out and is admitted again is the same."""
    after = admission.admit(pod(), [GIVEN])
    assert admission.admit(after, [GIVEN]) == after


@pytest.mark.parametrize("labels", [{"token-sidecar/inject": "false"}, None], ids=["no", "unlabelled"])
def test_pods_that_do_not_ask(admission: Admission, labels: dict[str, str] | None) -> None:
    """Without the label, or with "false", nothing is done, whatever the namespace holds."""
    before = pod(labels=labels)
    if labels is None:
        before["metadata"]["labels"] = {"app": "mail"}
    assert admission.admit(before, [GIVEN]) == before
    assert admission.admit(before) == before


def test_the_label_chooses_among_configurations(admission: Admission) -> None:
    """Of a namespace's ConfigMaps the one that the label names is taken, and its parameters with it."""
    other = copy.deepcopy(given(tokensDirectory="/other"))
    other["metadata"]["name"] = "other"
    after = admission.admit(pod(labels={"token-sidecar/inject": "other"}), [GIVEN, other])
    [config] = [one for one in after["spec"]["volumes"] if "configMap" in one]
    assert config["configMap"] == {"name": "other"}
    assert after["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/other"


@pytest.mark.parametrize("metadata", [{"name": "other"}, {"labels": {}}], ids=["another name", "no label"])
def test_no_pod_starts_without_its_sidecar(admission: Admission, metadata: Manifest) -> None:
    """A label that names no configuration is refused, and the refusal says what to do."""
    wrong = {**GIVEN, "metadata": {**GIVEN["metadata"], **metadata}}
    for offered in ([wrong], []):
        with pytest.raises(Refused, match=r"has no ConfigMap mail with the label .* `token-sidecar render"):
            admission.admit(pod(), offered)


def test_no_pod_starts_without_its_tokens(admission: Admission) -> None:
    """Where `containers` names none of the pod's own, nobody would read what the sidecar writes: that is refused."""
    with pytest.raises(Refused, match=r"`containers` in ConfigMap default/mail names none of app, proxy; "):
        admission.admit(pod({"name": "proxy", "image": "x"}), [given(containers="ap, worker")])


def test_a_mount_of_ones_own_is_enough(admission: Admission) -> None:
    """A container that brings the mount reads, whatever `containers` says."""
    own = {"name": "own", "image": "x", "volumeMounts": [MOUNT]}
    assert admission.admit(pod(own), [given(containers="ap")])["spec"]["containers"][1] == own


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"volumes": [{"name": "token-sidecar-state", "emptyDir": {}}]}, "spec.volumes"),
        ({"volumeMounts": [{"name": "data", "mountPath": "/run/tokens"}]}, "app.volumeMounts"),
    ],
)
def test_names_that_clash(admission: Admission, spec: Manifest, said: str) -> None:
    """A pod with a volume of our name, or a mount at our place, is refused and not quietly changed."""
    before = pod(**{key: value for key, value in spec.items() if key == "volumes"})
    before["spec"]["containers"][0].update(
        {key: value for key, value in spec.items() if key == "volumeMounts"}
    )
    with pytest.raises(Refused, match=rf"{said}: Duplicate value"):
        admission.admit(before, [GIVEN])


@pytest.mark.parametrize("data", [{"runAsUser": "mail"}, {"secrets": "gmail-oauth"}])
def test_parameters_that_mean_nothing(admission: Admission, data: dict[str, str]) -> None:
    """A pod is refused whose parameters can't be read."""
    with pytest.raises(Refused, match="expression failed"):
        admission.admit(pod(), [given(**data)])


def test_what_parameters_say(admission: Admission) -> None:
    """Image, user, group, tokens' directory, Secrets and the account's token are the namespace's own."""
    after = admission.admit(
        pod(),
        [
            given(
                image="mine:9",
                runAsUser="1001",
                runAsGroup="1002",
                tokensDirectory="/var/tokens",
                secrets="gmail-oauth:/etc/oauth,\n crm:/etc/crm",
                kubernetes="true",
            )
        ],
    )
    [sidecar] = after["spec"]["initContainers"]
    assert sidecar["image"] == "mine:9"
    assert (sidecar["securityContext"]["runAsUser"], sidecar["securityContext"]["runAsGroup"]) == (1001, 1002)
    mounts = {one["name"]: one["mountPath"] for one in sidecar["volumeMounts"]}
    assert mounts["token-sidecar-tokens"] == "/var/tokens"
    assert mounts["token-sidecar-kube-api-access"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mounts["token-sidecar-secret-crm"] == "/etc/crm"
    secrets = [one["secret"]["secretName"] for one in after["spec"]["volumes"] if "secret" in one]
    assert secrets == ["gmail-oauth", "crm"]
    assert [said for said in pss.violations({**after}) if said.startswith("token-sidecar")] == []
    assert [
        said
        for release in ON_136
        for said in schemas.mistakes({**after, "metadata": {"name": "app"}}, release)
    ] == []


# Values


VALUES: dict[str, tuple[Any, str]] = {
    "label": ("mail.example/token", "mail.example/token"),
    "parametersLabel": ("mail.example/given", "mail.example/given: 'true'"),
    "namespaceSelector": ({"matchLabels": {"tokens": "yes"}}, "tokens: 'yes'"),
    "failurePolicy": ("Ignore", "failurePolicy: Ignore"),
    "order": ("last", "object.spec.?initContainers.orValue([]).size()"),
    "labels": ({"team": "mail"}, "team: mail"),
    "annotations": ({"owner": "mail"}, "owner: mail"),
    "token-sidecar.image.repository": ("r.example/ts", "r.example/ts:0.1.0"),
    "token-sidecar.securityContext.runAsUser": (4711, "4711"),
    "token-sidecar.resources.limits.memory": ("129Mi", "129Mi"),
    "token-sidecar.livenessProbe.periodSeconds": (77, '"periodSeconds": dyn(77)'),
    "token-sidecar.env": ({"HTTPS_PROXY": "http://a\"b'<c>"}, "HTTPS_PROXY"),
    "token-sidecar.tokensDirectory": ("/var/x", "/var/x"),
    "token-sidecar.appVolumeMount.mountPath": ("/var/y", "/var/y"),
}


def nested(path: str, value: Any) -> Any:
    """Write values as a file has them."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("path", VALUES)
def test_every_value_is_used(helm: Helm, injector: Path, policies: list[Manifest], path: str) -> None:
    """Each changes what is rendered, which compiles, and injects."""
    value, shown = VALUES[path]
    assert not any(shown in text for text in map(plain, policies))
    changed = helm.template(injector, nested(path, value))
    assert any(shown in text for text in map(plain, changed))
    parameters, before = copy.deepcopy(GIVEN), pod()
    if path == "label":
        before["metadata"]["labels"] = {value: "mail"}
    if path == "parametersLabel":
        parameters["metadata"]["labels"] = {value: "true"}
    after = Admission(changed).admit(before, [parameters], {"labels": {"tokens": "yes"}})
    [sidecar] = after["spec"]["initContainers"]
    if path == "token-sidecar.env":
        assert value.items() <= {one["name"]: one.get("value") for one in sidecar["env"]}.items()


def plain(manifest: Manifest) -> str:
    """Write a manifest with its expressions as they are."""

    def texts(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for key, value in part.items():
                found = [*texts(value)]
                yield (
                    f"{key}: {value!r}" if not isinstance(value, dict | list) and len(str(value)) < 9 else ""
                )
                yield f"{key}: {value}"
                yield from found
        elif isinstance(part, list):
            for value in part:
                yield from texts(value)
        else:
            yield str(part)

    return "\n".join(texts(manifest))


def test_namespaces_that_are_not_selected(helm: Helm, injector: Path) -> None:
    """A pod elsewhere is not looked at."""
    admission = Admission(helm.template(injector, {"namespaceSelector": {"matchLabels": {"tokens": "yes"}}}))
    assert admission.admit(pod(), [GIVEN], {"labels": {}}) == pod()


def test_without_the_guard(helm: Helm, injector: Path) -> None:
    """Whoever turns it off gets pods without a sidecar where a label names nothing."""
    policies = helm.template(injector, {"guard": {"enabled": False}})
    assert len(policies) == 2
    other = {**GIVEN, "metadata": {**GIVEN["metadata"], "name": "other"}}
    assert Admission(policies).admit(pod(), [other]) == pod()
    with pytest.raises(Refused, match="no params found"):
        Admission(policies).admit(pod())


def test_last_in_order(helm: Helm, injector: Path) -> None:
    """With `order: last` the sidecar comes after the pod's own init containers."""
    admission = Admission(helm.template(injector, {"order": "last"}))
    after = admission.admit(pod(initContainers=[{"name": "migrate", "image": "x"}]), [GIVEN])
    assert names(after["spec"]["initContainers"]) == ["migrate", "token-sidecar"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lable": "x"}, "lable"),
        ({"failurePolicy": "fail"}, "failurePolicy"),
        ({"order": "middle"}, "order"),
        ({"guard": {"enable": True}}, "enable"),
        ({"namespaceSelector": {"matchLabel": {}}}, "matchLabel"),
        ({"label": "Not A Label"}, "label"),
        ({"token-sidecar": {"imgae": {}}}, "imgae"),
        ({"token-sidecar": {"native": False}}, "only native sidecars are injected"),
        ({"token-sidecar": {"secretMounts": {"a": "/b"}}}, "stand in its ConfigMap"),
        ({"token-sidecar": {"config": {"tokens": {"a": {"provider": "google"}}}}}, "stand in its ConfigMap"),
    ],
)
def test_values_that_mean_nothing(helm: Helm, injector: Path, values: Any, said: str) -> None:
    """A misspelt value, one of a wrong kind, and one that belongs elsewhere fail at `helm template`."""
    with pytest.raises(HelmError, match=said):
        helm.template(injector, values)


def test_every_value_is_named_in_the_schema_and_tried(injector: Path) -> None:
    """values.yaml, the schema and the tests here know the same keys."""
    known = yaml.safe_load((injector / "values.yaml").read_text(encoding="utf-8"))
    schema = yaml.safe_load((injector / "values.schema.json").read_text(encoding="utf-8"))
    assert {*known, "global"} == set(schema["properties"])
    assert set(known) - {"guard"} == {path.partition(".")[0] for path in VALUES}


def test_the_readme_has_every_value() -> None:
    """Its table is written from values.yaml, and every value has a text."""
    text = (documents.INJECTOR / "README.md").read_text(encoding="utf-8")
    assert text == documents.readme_text(documents.INJECTOR), "write it anew with: make chart"
    assert [value.path for value in documents.values(documents.INJECTOR) if not value.text] == []


def test_helm_finds_nothing_to_complain_about(helm: Helm, injector: Path) -> None:
    """`helm lint --strict` accepts the chart."""
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(injector))
