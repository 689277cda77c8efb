"""However the sidecar gets into a pod, the pod is the same: the chart's templates are the measure."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import cli
from tests.helm import schemas
from tests.helm.admission import Admission
from tests.helm.cases import GMAIL
from tests.helm.release import NAMESPACE, RELEASE, Helm, Manifest, one, pod

NAME = f"{RELEASE}-token-sidecar"
LONG_NAME = f"{'m' * 52}--{'m' * 9}"
"""Has no room for a namespace, and hyphens where it is cut."""
STATE_SECRETS = {
    "store": "kubernetes://${POD_NAMESPACE}/basketball",
    "tokens": {"gmail": GMAIL, "Alice_Smith": {**GMAIL, "seed": "/etc/oauth/b", "outputs": []}},
}
ALL_OF_KUBERNETES = {
    "store": {"url": "kubernetes://state/basketball"},
    "defaults": {"seed": {"kubernetes_secret": {"name": "seeds", "key": "b"}}, "client": GMAIL["client"]},
    "tokens": {
        # Its own seed takes the place of the default.
        "gmail": {
            "outputs": [
                {"file": "/run/tokens/gmail.json"},
                {"kubernetes_secret": {"namespace": "pal-e-mail", "name": "gmail-oauth", "key": "a"}},
                {"kubernetes_secret": {"namespace": "pal-e-mail", "name": "gmail-oauth", "key": "b"}},
                {"kubernetes_secret": {"name": "here", "key": "c"}},
            ],
            "after_refresh": [
                {"rollout_restart": {"namespace": "pal-e-mail", "deployment": "mailer"}},
                {"rollout_restart": {"statefulset": "queue"}},
                {"rollout_restart": {"namespace": "agents", "daemonset": "agent"}},
            ],
        },
        "other": {"provider": "google", "outputs": [{"file": "/run/tokens/other.json"}]},
    },
}

WISHES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "plain": ({}, []),
    "state-secrets": (
        {"config": STATE_SECRETS, "serviceAccount": {"name": "mailer"}},
        ["--service-account", "mailer"],
    ),
    "all-of-kubernetes": (
        {"config": ALL_OF_KUBERNETES, "serviceAccount": {"name": "mailer"}},
        ["--service-account", "mailer"],
    ),
    "own-user": (
        {"securityContext": {"runAsUser": 1001, "runAsGroup": 1002}, "image": {"tag": "9"}},
        ["--uid", "1001", "--gid", "1002", "--image", "token-sidecar:9"],
    ),
    "more-secrets": (
        {"secretMounts": {"crm": "/etc/crm"}},
        ["--mount", "crm:/etc/crm"],
    ),
    "elsewhere": (
        {
            "tokensDirectory": "/var/tokens",
            "config": {"tokens": {"gmail": {"outputs": [{"file": "/var/tokens/gmail.json"}]}}},
        },
        ["--directory", "/var/tokens"],
    ),
}
"""What the injector can do too: the chart's values → the same as options."""

MORE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "any-user": ({"securityContext": {"runAsUser": "", "runAsGroup": ""}}, ["--any-user"]),
    "classic": ({"native": False}, ["--classic"]),
    "exec-probes": (
        {"probeHandler": "exec", "config": {"server": {"host": "127.0.0.1", "port": 9641}}},
        ["--exec-probes"],
    ),
    "resources": (
        {"resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"memory": "2Mi"}}},
        ["--cpu", "1m", "--memory", "1Mi", "--memory-limit", "2Mi"],
    ),
    "state-dir": ({"config": {"state_dir": "/run/state", "server": {"port": 1234}}}, []),
    "long-name": (
        {"secretMounts": {"a.secret.with.dots": "/etc/more"}},
        ["--mount", "a.secret.with.dots:/etc/more"],
    ),
    "long-role-name": (
        {
            "fullnameOverride": LONG_NAME,
            "config": ALL_OF_KUBERNETES,
            "serviceAccount": {"name": "mailer"},
        },
        ["--name", LONG_NAME, "--service-account", "mailer"],
    ),
}


class Render:
    """Calls the command with a configuration and the options of one wish."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], manifests: list[Manifest]) -> None:
        self._capsys = capsys
        self._config = folder / "config.yaml"
        self._config.write_text(one(manifests, "ConfigMap")["data"]["config.yaml"], encoding="utf-8")
        self._options: list[str] = []

    def wishing(self, *options: str) -> Render:
        """Add options to every call."""
        self._options += options
        return self

    def __call__(self, what: str, *options: str, name: str = NAME) -> str:
        """Return what it prints."""
        secret = ["--mount", "gmail-oauth:/etc/oauth"]
        given = ["-c", str(self._config), "--name", name, "--namespace", NAMESPACE, *secret]
        assert cli.main(["render", what, *given, *self._options, *options]) == 0, (
            self._capsys.readouterr().err
        )
        return self._capsys.readouterr().out


@pytest.fixture
def wish() -> tuple[dict[str, Any], list[str]]:
    """Give the wish of the test; overridden by parameters."""
    return WISHES["plain"]


@pytest.fixture
def manifests(helm: Helm, app: Path, wish: tuple[dict[str, Any], list[str]]) -> list[Manifest]:
    """Render the example with the chart's templates."""
    return helm.template(app, {"token-sidecar": wish[0]})


@pytest.fixture
def bare(helm: Helm, app: Path) -> Manifest:
    """Render the example's pod without a sidecar."""
    found = copy.deepcopy(pod(helm.template(app, {"token-sidecar": {"enabled": False}})))
    found["spec"] = {key: value for key, value in found["spec"].items() if value is not None}
    for container in found["spec"]["containers"]:
        if container["volumeMounts"] is None:
            del container["volumeMounts"]
    return found


@pytest.fixture
def render(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    manifests: list[Manifest],
    wish: tuple[dict[str, Any], list[str]],
) -> Render:
    """Give the command for the same configuration."""
    return Render(tmp_path, capsys, manifests).wishing(*wish[1])


def named(items: list[Any] | None) -> dict[str, Any]:
    """Order what Kubernetes knows by name."""
    return {one["name"]: one for one in items or []}


def container(found: Manifest) -> Manifest:
    """Write a container so that the order of its mounts and variables is no difference."""
    mounts = {one["mountPath"]: one for one in found.get("volumeMounts") or []}
    return {**found, "volumeMounts": mounts, "env": named(found.get("env"))}


def comparable(found: Manifest) -> Any:
    """Write a pod so that only what is a difference to Kubernetes is one."""
    spec = found["spec"]
    return {
        "metadata": found["metadata"].get("labels"),
        **{key: value for key, value in spec.items() if key not in {"serviceAccountName", "serviceAccount"}},
        # Their order means something.
        "initContainers": [container(one) for one in spec.get("initContainers") or []],
        "containers": named([container(one) for one in spec["containers"]]),
        "volumes": named(spec.get("volumes")),
    }


def merged(mine: Any, theirs: Any) -> Any:
    """Merge as Kubernetes' strategic merge does, and Kustomize: lists by name, new items before the others."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        both = {key: merged(mine[key], theirs[key]) for key in mine.keys() & theirs.keys()}
        return {**mine, **theirs, **both}
    if isinstance(mine, list) and isinstance(theirs, list):
        key = "mountPath" if theirs and "mountPath" in theirs[0] else "name"
        patches = {one[key]: one for one in theirs}
        known = [one[key] for one in mine]
        return [one for one in theirs if one[key] not in known] + [
            merged(one, patches[one[key]]) if one[key] in patches else one for one in mine
        ]
    return theirs


def with_lists(bare: Manifest, values: dict[str, Any], names: tuple[str, str, str, str]) -> Manifest:
    """Do what a chart does that has lists for more containers, volumes and mounts."""
    init, beside, volumes, mounts = (values.get(name, []) for name in names)
    spec = {**bare["spec"], "initContainers": init, "volumes": volumes}
    spec["containers"] = [{**bare["spec"]["containers"][0], "volumeMounts": mounts}, *beside]
    return {**bare, "spec": spec}


def as_extra(bare: Manifest, values: dict[str, Any]) -> Manifest:
    """Read the values as charts do whose lists begin with `extra`."""
    return with_lists(
        bare, values, ("extraInitContainers", "extraContainers", "extraVolumes", "extraVolumeMounts")
    )


def as_bitnami(bare: Manifest, values: dict[str, Any]) -> Manifest:
    """Read the values as Bitnami's charts do."""
    return with_lists(bare, values, ("initContainers", "sidecars", "extraVolumes", "extraVolumeMounts"))


def as_stakater(bare: Manifest, values: dict[str, Any]) -> Manifest:
    """Read the values as stakater's chart does."""
    found = dict(values["deployment"])
    for key in ("initContainers", "volumes", "volumeMounts"):
        found[key] = [{"name": name, **one} for name, one in found[key].items()]
    return with_lists(bare, found, ("initContainers", "additionalContainers", "volumes", "volumeMounts"))


def as_bjw_s(bare: Manifest, values: dict[str, Any]) -> Manifest:
    """Read the values as bjw-s' library does."""
    controller, persistence = values["controllers"]["web"], values["persistence"]

    def mounts(name: str) -> list[Any]:
        return [
            {
                "name": volume,
                "mountPath": mount["path"],
                **({"readOnly": True} if mount.get("readOnly") else {}),
            }
            for volume, one in persistence.items()
            for mount in one["advancedMounts"]["web"].get(name, [])
        ]

    def containers(key: str) -> list[Any]:
        return [
            {
                "name": name,
                **{key: value for key, value in one.items() if key not in {"image", "probes"}},
                "image": f"{one['image']['repository']}:{one['image']['tag']}",
                "imagePullPolicy": one["image"]["pullPolicy"],
                **{
                    f"{kind}Probe": probe["spec"] for kind, probe in one["probes"].items() if probe["enabled"]
                },
                "volumeMounts": mounts(name),
            }
            for name, one in controller.get(key, {}).items()
        ]

    found = {
        "init": containers("initContainers"),
        "beside": containers("containers"),
        "volumes": [{"name": name, **one["volumeSpec"]} for name, one in persistence.items()],
        "mounts": mounts("app"),
    }
    return with_lists(bare, found, ("init", "beside", "volumes", "mounts"))


READERS: dict[str, Callable[[Manifest, dict[str, Any]], Manifest]] = {
    "extra": as_extra,
    "bitnami": as_bitnami,
    "stakater": as_stakater,
    "bjw-s": as_bjw_s,
}
EVERY = pytest.mark.parametrize("wish", [*WISHES.values(), *MORE.values()], ids=[*WISHES, *MORE])


@EVERY
@pytest.mark.parametrize("style", READERS)
def test_values_of_somebody_elses_chart(
    render: Render, bare: Manifest, manifests: list[Manifest], style: str
) -> None:
    """What a chart makes of the values is the pod that our chart makes."""
    options = ["--controller", "web", "--container", "app"]
    values = yaml.safe_load(render("values", "--style", style, *options))
    assert comparable(READERS[style](bare, values)) == comparable(pod(manifests))


@EVERY
def test_a_patch(render: Render, bare: Manifest, manifests: list[Manifest]) -> None:
    """What Kustomize, Flux and `kubectl apply --server-side` merge in makes the pod that our chart makes."""
    options = ["--workload", "Deployment/basketball", "--container", "app"]
    [patch] = yaml.safe_load(render("kustomize", *options))["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": "basketball"}
    part = yaml.safe_load(patch["patch"])
    assert comparable(merged(bare, part["spec"]["template"])) == comparable(pod(manifests))
    assert list(part["spec"]["template"]["metadata"]["annotations"]) == ["checksum/token-sidecar"]

    *_, same = yaml.safe_load_all(render("manifests", *options))
    assert same.pop("metadata") == {**part.pop("metadata"), "namespace": NAMESPACE}
    assert same == part


def test_what_was_there_stays(render: Render) -> None:
    """A patch adds: other containers, volumes and mounts of the workload are kept, and ours come first."""
    mine = {
        "spec": {
            "initContainers": [{"name": "migrate"}],
            "containers": [{"name": "app", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }
    }
    *_, part = yaml.safe_load_all(render("manifests", "--workload", "cronjob/app", "--container", "app"))
    found = merged(mine, part["spec"]["jobTemplate"]["spec"]["template"])["spec"]

    assert [one["name"] for one in found["initContainers"]] == ["token-sidecar", "migrate"]
    assert found["containers"][0]["volumeMounts"][-1] == {"name": "data", "mountPath": "/data"}
    assert {"name": "data", "emptyDir": {}} in found["volumes"]


@EVERY
def test_what_stands_beside_the_pods(render: Render, manifests: list[Manifest]) -> None:
    """ConfigMap, state Secrets, Role and binding are the chart's: the same names, contents and permissions."""
    found = [*yaml.safe_load_all(render("manifests", "--objects"))]
    kinds = {"ConfigMap", "Secret", "Role", "RoleBinding"}

    def told(manifest: Manifest) -> Any:
        metadata = manifest["metadata"]
        said = {key: value for key, value in manifest.items() if key != "metadata"}
        if "data" in said:
            said["data"] = yaml.safe_load(said["data"]["config.yaml"])
        annotations = metadata.get("annotations")
        return metadata["name"], metadata["namespace"], annotations, said

    theirs = [told(manifest) for manifest in manifests if manifest["kind"] in kinds]
    key = json.dumps
    assert sorted(map(told, found), key=key) == sorted(theirs, key=key)


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_the_injector(
    render: Render, bare: Manifest, manifests: list[Manifest], helm: Helm, injector: Path
) -> None:
    """A pod with the label comes out of the API server as the pod that our chart makes."""
    parameters, *_ = yaml.safe_load_all(render("injector"))
    bare["metadata"]["labels"]["token-sidecar/inject"] = NAME
    expected = copy.deepcopy(pod(manifests))
    expected["metadata"]["labels"]["token-sidecar/inject"] = NAME

    admitted = Admission(helm.template(injector)).admit(bare, [parameters])
    assert comparable(admitted) == comparable(expected)


def test_more_than_the_example_is_valid(render: Render, wish: tuple[dict[str, Any], list[str]]) -> None:
    """The example and all beside it are what Kubernetes accepts, as are the parts of every kind of workload."""
    found = [*yaml.safe_load_all(render("manifests")), *yaml.safe_load_all(render("injector"))]
    assert "Deployment" in {manifest["kind"] for manifest in found}
    for release in ("1.29", "1.37"):
        assert [said for manifest in found for said in schemas.mistakes(manifest, release)] == []


KUBECTL = shutil.which("kubectl")


@pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl to run the real Kustomize with")
def test_the_real_kustomize(
    render: Render, bare: Manifest, manifests: list[Manifest], tmp_path: Path
) -> None:
    """`kubectl kustomize` takes the component and makes the pod that our chart makes, with all that is beside it."""
    render(
        "kustomize", "--workload", "deployment/app", "--container", "app", "-o", str(tmp_path / "component")
    )
    metadata = {"name": "app", "namespace": NAMESPACE}
    app = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"template": bare}}
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(app), encoding="utf-8")
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [app.yaml]\ncomponents: [component]\n", encoding="utf-8"
    )
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stderr
    found = [*yaml.safe_load_all(done.stdout)]
    assert comparable(pod(found)) == comparable(pod(manifests))
    assert one(found, "ConfigMap")["metadata"]["name"] == NAME
