"""A real API server, where `KUBEBUILDER_ASSETS` names one: what it makes of a patch, and of the policies.

What it stores is compared with what it stores of the chart's own pod, so that its defaults are no difference. No
kubelet runs, and no pod starts.
"""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar import cli
from tests.helm.release import Helm, Manifest, one, pod
from tests.helm.test_injector import given, names
from tests.helm.test_injector import pod as labelled
from tests.helm.test_ways import NAME, comparable
from tests.kube.cluster import ApiTrouble, Cluster

if TYPE_CHECKING:
    from tests.kube.apiserver import ApiServer

pytestmark = pytest.mark.skipif(
    not os.environ.get("KUBEBUILDER_ASSETS"),
    reason="KUBEBUILDER_ASSETS names no directory with a kube-apiserver and etcd",
)

ADMISSION = "apis/admissionregistration.k8s.io/v1"
PATIENCE = 40.0
"""Seconds: an API server looks at its policies about once a second, and on a busy machine less often."""


def stored(cluster: Cluster, found: Manifest) -> Any:
    """Create a pod for show, and return what would have been stored of it. Raises `ApiTrouble`."""
    where = f"api/v1/namespaces/{found['metadata']['namespace']}/pods"
    answer = cluster.ask("POST", where, found, dryRun="All")
    if answer.status_code >= 400:
        raise ApiTrouble(answer)
    return answer.json()


def workload(metadata: Manifest, template: Manifest) -> Manifest:
    """Write a Deployment around a pod."""
    labels = template["metadata"]["labels"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def without_nulls(found: Manifest) -> Manifest:
    """Leave out what a template left empty."""
    return {key: value for key, value in found.items() if value is not None}


def knows_sidecars(cluster: ApiServer, namespace: str) -> bool:
    """Tell whether an init container may go on running there: older ones drop what they don't know."""
    asked = labelled(initContainers=[{"name": "on", "image": "x", "restartPolicy": "Always"}])
    asked["metadata"]["namespace"] = namespace
    return "restartPolicy" in stored(cluster, asked)["spec"]["initContainers"][0]


def test_server_side_apply_merges_the_part(
    real_cluster: ApiServer, helm: Helm, app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`kubectl apply --server-side` of `render manifests --workload` makes the Deployment that our chart makes."""
    namespace = real_cluster.namespace()
    native = knows_sidecars(real_cluster, namespace)
    values = {"token-sidecar": {"native": native}}
    manifests = helm.template(app, values)
    config = tmp_path / "config.yaml"
    config.write_text(one(manifests, "ConfigMap")["data"]["config.yaml"], encoding="utf-8")
    options = ["-c", str(config), "--name", NAME, "-n", namespace, "--mount", "gmail-oauth:/etc/oauth"]
    mode = [] if native else ["--classic"]
    target = ["--workload", "deployment/app", "--container", "app"]
    bare = copy.deepcopy(pod(helm.template(app, {"token-sidecar": {"enabled": False}})))
    bare["spec"] = without_nulls(bare["spec"])
    bare["spec"]["containers"] = [without_nulls(one) for one in bare["spec"]["containers"]]
    real_cluster.create(workload({"name": "app", "namespace": namespace}, bare))
    whole = workload({"name": "chart", "namespace": namespace}, pod(manifests))

    assert cli.main(["render", "manifests", *options, *mode, *target]) == 0
    *_, applied = (
        real_cluster.apply(manifest, manager="token-sidecar-render", force=False)
        for manifest in yaml.safe_load_all(capsys.readouterr().out)
    )

    expected = real_cluster.create(whole)
    assert comparable(applied["spec"]["template"]) == comparable(expected["spec"]["template"])


@pytest.fixture
def injecting(real_cluster: ApiServer, helm: Helm, injector: Path) -> ApiServer:
    """Give a real API server that has the injector's policies, as `helm install` would leave it."""
    served = real_cluster.ask("GET", ADMISSION).json().get("resources", [])
    if "mutatingadmissionpolicies" not in names(served):
        pytest.skip(
            f"this API server ({real_cluster.version()}) doesn't serve MutatingAdmissionPolicy in v1: 1.36 does"
        )
    for manifest in helm.template(injector):
        kind = manifest["kind"].lower()
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        answer = real_cluster.ask("POST", f"{ADMISSION}/{plural}", manifest)
        assert answer.status_code in {201, 409}, answer.text
    return real_cluster


def admitted(cluster: Cluster, found: Manifest) -> Any:
    """Create a pod, as soon as the policies are in force and know their parameters."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            after = stored(cluster, found)
        except ApiTrouble:
            if time.monotonic() > end:
                raise
        else:
            if "token-sidecar-tokens" in names(after["spec"].get("volumes", [])):
                return after
            assert time.monotonic() < end, "the policies do nothing"
        time.sleep(0.2)


def test_the_policies_inject(
    injecting: ApiServer, helm: Helm, app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A labelled pod is stored as our chart's own pod is, whatever lists it has; another is not touched."""
    namespace = injecting.namespace()
    manifests = helm.template(app)
    config = tmp_path / "config.yaml"
    config.write_text(one(manifests, "ConfigMap")["data"]["config.yaml"], encoding="utf-8")
    options = ["-c", str(config), "--name", NAME, "-n", namespace, "--mount", "gmail-oauth:/etc/oauth"]
    assert cli.main(["render", "injector", *options]) == 0
    injecting.create(yaml.safe_load(capsys.readouterr().out))

    chart = copy.deepcopy(pod(manifests))
    chart = {"apiVersion": "v1", "kind": "Pod", **chart}
    chart["metadata"] = {**chart["metadata"], "name": "app", "namespace": namespace}
    bare = copy.deepcopy(chart)
    bare["spec"] = {
        key: value for key, value in bare["spec"].items() if key not in {"initContainers", "volumes"}
    }
    del bare["spec"]["containers"][0]["volumeMounts"]
    unlabelled = stored(injecting, bare)
    assert "initContainers" not in unlabelled["spec"]

    expected = stored(injecting, chart)
    bare["metadata"]["labels"]["token-sidecar/inject"] = NAME
    expected["metadata"]["labels"]["token-sidecar/inject"] = NAME
    after = admitted(injecting, bare)
    assert comparable(after) == comparable(expected)

    # What is there already goes through unchanged, and other lists are kept.
    again = {key: after[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = bare["metadata"]
    assert comparable(stored(injecting, again)) == comparable(expected)
    more = labelled(
        {"name": "two", "image": "b", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        labels={"token-sidecar/inject": NAME},
        initContainers=[{"name": "migrate", "image": "app:1"}],
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    more["metadata"]["namespace"] = namespace
    spec = stored(injecting, more)["spec"]
    assert names(spec["initContainers"]) == ["token-sidecar", "migrate"]
    assert [len(one["volumeMounts"]) for one in spec["containers"]] == [1, 2]


def test_no_labelled_pod_starts_without_a_sidecar(injecting: ApiServer) -> None:
    """A label that names no configuration is refused with a word on what is missing."""
    namespace = injecting.namespace()
    other = given()
    other["metadata"] = {**other["metadata"], "name": "other", "namespace": namespace}
    injecting.create(other)
    asking = labelled(labels={"token-sidecar/inject": "other"})
    asking["metadata"]["namespace"] = namespace
    admitted(injecting, asking)

    asking["metadata"]["labels"]["token-sidecar/inject"] = "mail"
    with pytest.raises(ApiTrouble, match="no ConfigMap mail"):
        stored(injecting, asking)
