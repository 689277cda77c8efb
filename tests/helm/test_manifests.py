from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sidecar import config
from tests.helm import pss, schemas
from tests.helm.cases import CASES
from tests.helm.release import Helm, Manifest, one, ours, pod, pods, sidecar

ON = [case for case in CASES if case != "disabled"]
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
def manifests(helm: Helm, app: Path, case: str) -> list[Manifest]:
    """Render the example for one case."""
    return helm.template(app, CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_every_release_accepts_every_manifest(manifests: list[Manifest]) -> None:
    """No release of Kubernetes that has native sidecars finds an unknown or misspelt field."""
    assert schemas.NATIVE[0] == "1.29"
    assert schemas.NATIVE[-1] == "1.37"
    assert [
        said for release in schemas.NATIVE for one in manifests for said in schemas.mistakes(one, release)
    ] == []


@pytest.mark.parametrize("change", [{"restartPolice": "Always"}, {"restartPolicy": 1}])
def test_the_schemas_find_mistakes(helm: Helm, app: Path, change: Manifest) -> None:
    """What the test above relies on: a misspelt field and a wrong type are found in every release."""
    manifest = yaml.safe_load(yaml.safe_dump(one(helm.template(app), "Deployment")))
    sidecar(manifest["spec"]["template"]).update(change)
    manifest["spec"]["template"]["spec"]["initContainers"][0].update(change)

    for release in schemas.NATIVE:
        [said] = schemas.mistakes(manifest, release)
        assert "initContainers[0]" in said


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_admitted_under_restricted(manifests: list[Manifest]) -> None:
    """A namespace that enforces the Pod Security Standard "restricted" takes every pod, the test's own included."""
    assert [(where, said) for where, found in pods(manifests) for said in pss.violations(found)] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runAsNonRoot": False}, "runAsNonRoot"),
        ({"runAsUser": 0}, "root"),
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
        ({"capabilities": {"drop": []}}, "capabilities"),
        ({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}, "adds"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccomp"),
        ({"privileged": True}, "privileged"),
    ],
)
def test_the_profile_is_checked(helm: Helm, app: Path, change: Manifest, said: str) -> None:
    """What the test above relies on: each thing that the profile forbids is found."""
    found = pod(helm.template(app))
    spec = yaml.safe_load(yaml.safe_dump(found["spec"]))
    spec["initContainers"][0]["securityContext"].update(change)

    [violation] = pss.violations({"spec": spec})
    assert said in violation


@pytest.mark.parametrize("case", ON)
def test_the_daemon_accepts_the_configuration(manifests: list[Manifest], tmp_path: Path, case: str) -> None:
    """What the chart made of the values is a configuration that `token-sidecar run` starts with."""
    file = tmp_path / "config.yaml"
    [text] = [
        manifest["data"]["config.yaml"]
        for manifest in manifests
        if manifest["kind"] == "ConfigMap" and "config.yaml" in manifest["data"]
    ]
    file.write_text(text, encoding="utf-8")

    settings = config.load(file, env={"POD_NAMESPACE": "basketball-api"}, disk=False).settings

    container = ours(pod(manifests))
    assert str(settings.state_dir) in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {port["containerPort"] for port in container.get("ports", [])} <= {settings.server.port}
    assert settings.server.host == ("127.0.0.1" if case == "mesh" else "::")


@pytest.mark.parametrize("case", ON)
def test_the_application_sees_the_tokens_and_nothing_else_of_ours(
    manifests: list[Manifest], case: str
) -> None:
    """It mounts one volume, to read; state, configuration, Secrets and the account's token are the sidecar's alone."""
    found = pod(manifests)
    [application] = [one for one in found["spec"]["containers"] if one["name"] == "app"]

    [mount] = application["volumeMounts"]
    assert mount["name"] == "token-sidecar-tokens"
    assert mount["readOnly"] is (case != "everything")
    assert "subPath" not in mount
    assert found["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", ON)
def test_volumes_and_mounts_fit(manifests: list[Manifest]) -> None:
    """Each mount has its volume and each volume its mount, and no two volumes have the same name."""
    for where, found in pods(manifests):
        containers = [*(found["spec"].get("initContainers") or []), *found["spec"]["containers"]]
        mounted = {mount["name"] for one in containers for mount in one["volumeMounts"]}
        names = [volume["name"] for volume in found["spec"]["volumes"]]
        assert sorted(names) == sorted(mounted), where
        assert [name for name in names if len(name) > 63] == []


def test_any_secret_can_be_mounted(helm: Helm, app: Path) -> None:
    """A Secret's name may be longer than a volume's, and have dots: its volume gets another name, and each its own."""
    names = ["a" * 42, "a" * 253, f"{'a' * 60}.b", "a.b", "a-b"]
    mounts = {name: f"/etc/{number}" for number, name in enumerate(names)}
    manifests = helm.template(app, {"token-sidecar": {"secretMounts": mounts}})

    volumes = {
        volume["secret"]["secretName"]: volume["name"]
        for volume in pod(manifests)["spec"]["volumes"]
        if "secret" in volume
    }
    assert set(volumes) == {*names, "gmail-oauth"}
    assert len(set(volumes.values())) == len(volumes)
    assert [name for name in volumes.values() if not re.fullmatch("[a-z0-9-]{1,63}", name)] == []
    mounted = {mount["name"]: mount["mountPath"] for mount in sidecar(pod(manifests))["volumeMounts"]}
    assert {name: mounted[volumes[name]] for name in names} == mounts


@pytest.mark.parametrize("case", ON)
def test_what_tokens_lie_in_is_memory(manifests: list[Manifest]) -> None:
    """Outputs and state are memory volumes with a limit: no token reaches a node's disk."""
    for _, found in pods(manifests):
        volumes = {volume["name"]: volume for volume in found["spec"]["volumes"]}
        for name in ("token-sidecar-tokens", "token-sidecar-state"):
            assert volumes[name]["emptyDir"]["medium"] == "Memory"
            assert volumes[name]["emptyDir"]["sizeLimit"]


def test_without_the_sidecar_the_application_is_as_it_was(helm: Helm, app: Path) -> None:
    """`enabled: false` leaves the application's own objects, and nothing of ours in them."""
    text = helm.text(app, CASES["disabled"])
    [manifest] = helm.template(app, CASES["disabled"])

    assert manifest["kind"] == "Deployment"
    assert "token-sidecar" not in text.replace("# Source: example-app/charts/token-sidecar", "")


@pytest.mark.parametrize("kind", ["statefulset", "job", "cronjob"])
def test_every_kind_of_workload_gets_the_same_sidecar(helm: Helm, app: Path, kind: str) -> None:
    """The sidecar, its volumes and its annotation don't depend on what runs the pod."""
    deployment, other = (pod(helm.template(app, CASES[case])) for case in ("deployment", kind))

    assert sidecar(other) == sidecar(deployment)
    assert other["spec"]["volumes"] == deployment["spec"]["volumes"]
    assert other["metadata"]["annotations"] == deployment["metadata"]["annotations"]
    assert sidecar(other)["restartPolicy"] == "Always"


def test_a_classic_container_is_the_same_sidecar(helm: Helm, app: Path) -> None:
    """`native: false` moves it among the containers, behind one that fetched the tokens; a Job gets only the latter."""
    native, classic, job = (
        pod(helm.template(app, CASES[case])) for case in ("deployment", "classic", "classic-job")
    )

    assert sidecar(classic) == {
        key: value for key, value in sidecar(native).items() if key != "restartPolicy"
    }
    [once] = classic["spec"]["initContainers"]
    assert once["args"][:4] == ["run", "--once", "--wait", "5m"]
    assert "restartPolicy" not in once
    assert {key for key in sidecar(classic) if key not in once} == {
        "ports",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
    }
    assert once["volumeMounts"] == sidecar(classic)["volumeMounts"]
    assert job["spec"]["initContainers"] == [once]
    assert [one["name"] for one in job["spec"]["containers"]] == ["app"]


def test_the_probes_ask_by_number(helm: Helm, app: Path) -> None:
    """Names of a native sidecar's ports aren't resolved everywhere; and each probe asks its own question."""
    found = sidecar(pod(helm.template(app)))

    assert {name: found[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")} == {
        "startup": {"path": "/startupz", "port": 9640},
        "liveness": {"path": "/livez", "port": 9640},
        "readiness": {"path": "/readyz", "port": 9640},
    }


def test_probes_that_need_no_way_in(helm: Helm, app: Path) -> None:
    """`probeHandler: exec` asks inside of the container, and the server may then listen on loopback alone."""
    found = sidecar(pod(helm.template(app, CASES["mesh"])))

    assert {
        name: found[f"{name}Probe"]["exec"]["command"] for name in ("startup", "liveness", "readiness")
    } == {
        "startup": ["token-sidecar", "healthcheck", "startup"],
        "liveness": ["token-sidecar", "healthcheck", "live"],
        "readiness": ["token-sidecar", "healthcheck", "ready"],
    }


def test_openshift_chooses_the_user(helm: Helm, app: Path) -> None:
    """No container names a user or a group, so that the namespace's own range applies."""
    text = helm.text(app, CASES["openshift"])

    assert "runAsUser" not in text
    assert "runAsGroup" not in text


@pytest.mark.parametrize("unset", [None, ""])
def test_a_user_can_be_taken_away(helm: Helm, chart: Path, unset: str | None) -> None:
    """`null` does it, and "" does it for versions of Helm that lose a null on its way to a dependency."""
    values = {**CASES["deployment"], "config": {"tokens": {"a": {"provider": "google"}}}}
    del values["kind"]
    found = helm.template(chart, {**values, "securityContext": {"runAsUser": unset}})

    context = sidecar(one(found, "Pod"))["securityContext"]
    assert "runAsUser" not in context
    assert context["runAsGroup"] == 65532
