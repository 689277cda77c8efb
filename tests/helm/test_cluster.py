"""What the chart renders, applied to an API server: the fake one, and a real one where its programs are."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import clock
from sidecar.config.kubernetes import SecretPlace
from sidecar.stores.kubernetes import KubernetesStore
from sidecar.tokens import Record, RefreshToken
from tests.helm.cases import CASES
from tests.helm.release import RELEASE, Helm, Manifest, copy, merged, one
from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Account, Cluster

KEY = "basketball-api/gmail"
SECRET = "basketball-gmail"
APPLIED = ("ServiceAccount", "Secret", "Role", "RoleBinding", "ConfigMap")
GITOPS = ("argocd-controller", "kustomize-controller", "helm-controller", "helm")
"""How those who apply charts from the server's side call themselves."""

PATIENCE = 60.0


def record(generation: int) -> Record:
    """Make a record to tell from others."""
    refresh = RefreshToken(value=f"sim-rt-{generation:020}", issued_at=1.8e9)
    return Record(lineage="one", generation=generation, refresh=refresh)


@pytest.mark.parametrize(
    "names",
    [
        ["gmail", "a.b", "a-b", "0", "x1.y2.z3", "a--b"],
        ["Gmail", "a_b", "A.B", "a..b", "a.-b", "a-.b", "x_y", "Ab-Cd_ef.gh", "a" * 63],
    ],
)
def test_the_names_are_the_ones_that_the_store_computes(helm: Helm, chart: Path, names: list[str]) -> None:
    """Chart and daemon name a token's Secret alike, whatever the token is called."""
    tokens = {name: {"provider": "google"} for name in names}
    manifests = helm.template(
        chart,
        {"serviceAccount": {"name": "a"}, "config": {"store": "kubernetes://ns-1/pre.fix", "tokens": tokens}},
    )

    secrets = {one["metadata"]["name"] for one in manifests if one["kind"] == "Secret"}
    assert secrets == {SecretPlace("ns-1", "pre.fix").secret_of(name) for name in names}
    assert {one["metadata"]["namespace"] for one in manifests if one["kind"] in {"Secret", "Role"}} == {
        "ns-1"
    }


@pytest.fixture
def manifests(helm: Helm, app: Path, namespace: str) -> list[Manifest]:
    """Render the example with its records in Secrets, for a namespace of this test's own."""
    found = helm.template(app, CASES["kubernetes"], namespace=namespace)
    return [manifest for manifest in found if manifest["kind"] in APPLIED]


@pytest.fixture
def account(
    cluster: Cluster,
    namespace: str,
    manifests: list[Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Account:
    """Install the release, and give the account that its pods run as."""
    for manifest in manifests:
        cluster.create(manifest)
    name = one(manifests, "ServiceAccount")["metadata"]["name"]
    found = Account(cluster, namespace, name, cluster.issue_token(namespace, name))
    monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path)))
    end = time.monotonic() + PATIENCE
    while not cluster.may(found, "get", "secrets", namespace, SECRET):
        assert time.monotonic() < end, "the server does not see the new role"
        time.sleep(0.02)
    return found


def the_store(namespace: str) -> KubernetesStore:
    """Make the store as the daemon does."""
    return KubernetesStore(SecretPlace(namespace, "basketball"), clock.SystemClock())


async def test_the_role_is_what_the_store_needs(cluster: Cluster, namespace: str, account: Account) -> None:
    """With the chart's Secrets and permissions the store reads, writes and deletes; nothing else is allowed."""
    async with the_store(namespace) as store:
        assert await store.load(KEY) is None
        first = await store.write(KEY, record(1), expected=None, lease=5)
        second = await store.write(KEY, record(2), expected=first)
        held = await store.load(KEY)
        assert held is not None
        assert held.record == record(2)
        await store.delete(KEY, expected=second)

    allowed = {
        verb
        for verb in ("get", "update", "patch", "watch", "create", "delete", "list")
        if cluster.may(account, verb, "secrets", namespace, SECRET)
    }
    assert allowed == {"get", "patch"}
    for resource, name in (("secrets", "gmail-oauth"), ("secrets", ""), ("configmaps", "kube-root-ca.crt")):
        assert not cluster.may(account, "get", resource, namespace, name)


async def test_tools_that_apply_the_chart_again_take_nothing_away(
    cluster: Cluster, namespace: str, account: Account, manifests: list[Manifest]
) -> None:
    """Each of them may apply it, before the first record and after; records stay, and the store goes on writing."""
    secret = one(manifests, "Secret", name=SECRET)
    for manager in GITOPS:
        cluster.apply(secret, manager=manager)
    async with the_store(namespace) as store:
        version = await store.write(KEY, record(1), expected=None)
        for number, manager in enumerate(GITOPS, start=2):
            cluster.apply(secret, manager=manager)
            held = await store.load(KEY)
            assert held is not None
            assert held.version == version
            version = await store.write(KEY, record(number), expected=version)


class Installed:
    """A release of the example on a real API server, which knows no native sidecars."""

    def __init__(self, helm: Helm, server: ApiServer, charts: Path, folder: Path) -> None:
        self.server = server
        self.namespace = server.namespace()
        self._helm = helm
        self._chart = charts / "example-app"
        self._flags = (
            "--namespace",
            self.namespace,
            "--kubeconfig",
            str(server.admin_kubeconfig(folder / "admin")),
        )

    def run(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        """Run a command of Helm on it."""
        classic = {"token-sidecar": {"native": False}}
        given = yaml.safe_dump(merged(merged(CASES["kubernetes"], classic), values or {}))
        with_chart = (str(self._chart), "--values", "-") if arguments[0] in {"install", "upgrade"} else ()
        return self._helm.run(arguments[0], RELEASE, *with_chart, *self._flags, *arguments[1:], given=given)

    def write_record(self) -> None:
        """Write as the daemon does."""
        data = {key: base64.b64encode(value).decode() for key, value in RECORD.items()}
        self.server.patch("secrets", self.namespace, SECRET, {"data": data}, manager="token-sidecar")

    def data(self) -> dict[str, bytes]:
        """Return what is in the Secret."""
        return self.server.secret_data(self.namespace, SECRET)


@pytest.fixture
def installed(request: pytest.FixtureRequest, helm: Helm, tmp_path: Path) -> Installed:
    """Give a release that isn't installed yet."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        pytest.skip("KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver")
    server: ApiServer = request.getfixturevalue("real_cluster")
    charts = copy(tmp_path, "token-sidecar", "example-app")
    # One that is built from source doesn't say which version it is.
    for about in charts.glob("*/Chart.yaml"):
        about.write_text(about.read_text().replace('kubeVersion: ">=1.25.0-0"', 'kubeVersion: ">=0.0.0-0"'))
    helm.run("dependency", "build", str(charts / "example-app"))
    return Installed(helm, server, charts, tmp_path)


RECORD = {"record": b"sim-rt-0123456789abcdef"}


def test_helm_keeps_what_the_daemon_wrote(installed: Installed) -> None:
    """Upgrades leave a record where it is, even where they change the Secret itself; so do its end and return."""
    installed.run("install")
    installed.write_record()

    labelled = {"token-sidecar": {"labels": {"team": "mail"}}}
    for command, values in (("upgrade", labelled), ("rollback", {}), ("upgrade", {}), ("uninstall", {})):
        installed.run(command, values=values)

        assert installed.data() == RECORD
    assert installed.server.find("configmaps", installed.namespace, f"{RELEASE}-token-sidecar") is None
    installed.run("install")
    assert installed.data() == RECORD


def test_force_takes_the_record_away(installed: Installed) -> None:
    """Why the how-to warns of it: `helm upgrade --force` replaces the Secret by the empty one."""
    installed.run("install")
    installed.write_record()

    installed.run("upgrade", "--force", values={"token-sidecar": {"labels": {"team": "mail"}}})

    assert installed.data() == {}
