"""Restarting a workload once for each new token, over a fake API server, and a real one where its programs are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sidecar.clients.kubernetes import RESTARTED_AT, Kubernetes
from sidecar.clock import SystemClock
from sidecar.config.settings import HookSettings, RolloutRestart
from sidecar.errors import HookError
from sidecar.hooks.rollout_restart import RolloutRestartHook, annotation_of
from sidecar.ports import Mark, Occasion
from tests.kube.cluster import KINDS, Account, Cluster, Object, Rule

NAME = "pal-e-mail"
WORKLOADS = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}


def manifest(kind: str, namespace: str) -> Object:
    """Write a workload as somebody's chart does, with annotations of its own."""
    labels = {"app": NAME}
    spec: Object = {
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels, "annotations": {"checksum": "1"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        },
    }
    if kind == "StatefulSet":
        spec["serviceName"] = NAME
    metadata = {"name": NAME, "namespace": namespace, "annotations": {"owner": "mail"}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


class Site:
    """A workload, and daemons that may restart it."""

    def __init__(self, cluster: Cluster, namespace: str, api: Kubernetes) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.api = api
        rules = [Rule(f"{kind}s", ["get", "patch"], [NAME]) for kind in WORKLOADS]
        self.account: Account = cluster.account(namespace, rules=rules)

    def hook(self, kind: str = "deployment", *, by_lineage: bool = False) -> RolloutRestartHook:
        """Make the hook as a daemon does."""
        restart = RolloutRestart(**{"namespace": self.namespace, kind: NAME})
        settings = HookSettings(rollout_restart=restart, when="lineage" if by_lineage else "refresh")
        return RolloutRestartHook(settings, restart, self.api, namespace="mail", clock=SystemClock())

    def found(self, kind: str = "deployment") -> Object:
        """Return the workload."""
        found = self.cluster.find(KINDS[WORKLOADS[kind]], self.namespace, NAME)
        assert found is not None
        return found


def occasion(generation: int = 1, *, lineage: str = "one", seeds: int = 1) -> Occasion:
    """Make a new token."""
    return Occasion("gmail", Mark(lineage, generation, seeds, 1_700_000_000.0 + seeds * 1000 + generation))


@pytest.fixture
async def site(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """Make the workloads, and be the account that may restart them."""
    site = Site(cluster, namespace, Kubernetes())
    for kind in WORKLOADS.values():
        cluster.create(manifest(kind, namespace))
    monkeypatch.setenv("KUBECONFIG", str(site.account.kubeconfig(tmp_path / "account")))
    async with site.api:
        yield site


@pytest.mark.parametrize("kind", WORKLOADS)
async def test_it_does_what_kubectl_does(site: Site, kind: str) -> None:
    """The pods' template is annotated as by `kubectl rollout restart`, and all else stays."""
    before = site.found(kind)
    assert await site.hook(kind).run(occasion())
    after = site.found(kind)

    template = after["spec"]["template"]
    assert template["metadata"]["annotations"].pop(RESTARTED_AT).endswith("Z")
    assert template == before["spec"]["template"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert after["metadata"]["annotations"]["owner"] == "mail"
    assert annotation_of("mail.gmail") in after["metadata"]["annotations"]


async def test_replicas_restart_it_once_for_each_token(site: Site) -> None:
    """Five daemons share the grant and learn of its token at once; one of them restarts."""
    for generation in (1, 2):
        needed: list[bool] = []

        async def run(generation: int, needed: list[bool]) -> None:
            needed.append(await site.hook().run(occasion(generation)))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(run, generation, needed)
        assert sorted(needed) == [False] * 4 + [True]
        assert site.found()["metadata"]["generation"] == 1 + generation


async def test_a_daemon_that_lags_behind_restarts_nothing(site: Site) -> None:
    """A token older than what the workload was restarted for, of the same lineage or one before, is no news."""
    await site.hook().run(occasion(5, lineage="two", seeds=2))

    assert not await site.hook().run(occasion(4, lineage="two", seeds=2))
    assert not await site.hook().run(occasion(9, lineage="one", seeds=1))
    assert await site.hook().run(occasion(1, lineage="three", seeds=3))


async def test_by_lineage_it_restarts_for_new_consents_alone(site: Site) -> None:
    """Whatever generation a daemon comes with that was started anew."""
    assert await site.hook(by_lineage=True).run(occasion(1))
    assert not await site.hook(by_lineage=True).run(occasion(7))
    assert await site.hook(by_lineage=True).run(occasion(1, lineage="two", seeds=2))


async def test_tokens_do_not_stand_in_each_others_way(site: Site) -> None:
    """An application may read two tokens at its start: each has an annotation of its own."""
    first = occasion()
    assert await site.hook().run(first)
    assert await site.hook().run(Occasion("drive", first.mark))
    assert not await site.hook().run(first)


async def test_a_lacking_right_prints_the_rule(site: Site) -> None:
    """What is to be added to which Role is there to be copied."""
    site.cluster.allow(site.account, [Rule("deployments", ["get"], [NAME])])
    rule = f'{{apiGroups: ["apps"], resources: [deployments], resourceNames: [{NAME}], verbs: [get, patch]}}'
    for kind, verb in (("deployment", "patch"), ("statefulset", "get")):
        with pytest.raises(HookError) as caught:
            await site.hook(kind).run(occasion())
        assert f"may not {verb} it" in str(caught.value)
        assert rule.replace("deployment", kind) in str(caught.value)


async def test_a_missing_workload_and_an_outage_are_told(site: Site) -> None:
    """Both are errors, to be tried again."""
    site.cluster.delete("deployments", site.namespace, NAME)
    with pytest.raises(HookError, match="there is none; correct its name"):
        await site.hook().run(occasion())
    with site.cluster.down(), pytest.raises(HookError, match="the API server"):
        await site.hook().run(occasion())


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("default.gmail", "restarted-for.token-sidecar/default.gmail"),
        ("default.gmail-a", "restarted-for.token-sidecar/default.gmail-a"),
        ("default.gmail/a", None),
        ("default.gmail/é", None),
        ("n" * 63 + ".gmail", None),
        ("n" * 63 + ".drive", None),
    ],
)
def test_every_token_has_an_annotation_that_kubernetes_takes(
    key: str, name: str | None, names: set[Any]
) -> None:
    """A name is 63 characters at most, and no two tokens share one."""
    found = annotation_of(key)
    assert len(found.partition("/")[2]) <= 63
    assert found not in names
    assert name in {None, found}
    names.add(found)


@pytest.fixture(scope="module")
def names() -> set[Any]:
    """Collect the names that were given."""
    return set()
