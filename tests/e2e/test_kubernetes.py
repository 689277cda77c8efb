"""Real daemons whose records are in Secrets: the API server goes away, a Secret falls back, is emptied or forbidden.

The misfortunes are those of test_store_misfortunes.py and test_outages.py, as they come to Kubernetes.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import PATIENCE, Daemon, MakeDaemon, MakeSimulator
from tests.e2e.kubernetes import Secrets
from tests.e2e.test_outages import (
    LONG,
    SHORT,
    Length,
    Property,
    be_away_before_the_commit,
    be_away_before_the_lease,
)
from tests.e2e.test_store_misfortunes import LOST, calls, look, refresh, refused, sound, wait_for
from tests.kube import apiserver, fake
from tests.kube.cluster import Cluster, Object

if TYPE_CHECKING:
    from sidecar.testing import Simulator


@pytest.fixture
def secrets(cluster: Cluster, tmp_path: Path) -> Secrets:
    """Give a namespace with a token's state Secret, empty, and an account that may read and patch it."""
    return Secrets(cluster, tmp_path)


@pytest.fixture
def begun(daemon: Daemon, secrets: Secrets, simulator: Simulator) -> Daemon:
    """Give a daemon that runs on it, with a token of an hour."""
    secrets.used_by(daemon).add(simulator)
    return daemon.start()


# The API server is away


def away(
    folder: Path, make_daemon: MakeDaemon, make_simulator: MakeSimulator, length: Length, server: Any
) -> str:
    """Have it away at both moments and in all ways, all at once, each with a server of its own."""

    def live(before: str, way: str) -> str:
        with server.running() as cluster:
            place = folder / f"{before} {way}"
            place.mkdir()
            secrets = Secrets(cluster, place)
            daemon = secrets.used_by(make_daemon())
            if before == "lease":
                simulator = make_simulator(access_ttl=length.life)
                told = be_away_before_the_lease(daemon, simulator, secrets, way, length)
            else:
                told = be_away_before_the_commit(daemon, make_simulator(), secrets, way, length)
        return f"before the {before}, {way}: {told}"

    ways = ["stopped", "silent", *(["mute"] if server is fake else [])]
    cases = [*(("lease", way) for way in ("stopped", "silent")), *(("commit", way) for way in ways)]
    with ThreadPoolExecutor(len(cases)) as threads:
        return "\n".join(threads.map(live, *zip(*cases, strict=True)))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["fake", *(["real"] if apiserver.assets() else [])])
def test_an_api_server_that_is_away(
    tmp_path: Path,
    make_daemon: MakeDaemon,
    make_simulator: MakeSimulator,
    record_property: Property,
    kind: str,
) -> None:
    """Away before the lease, nobody is called; away before the commit, the pair is kept, published and committed."""
    server = {"fake": fake, "real": apiserver}[kind]
    length = SHORT._replace(outage=10)
    record_property("figures", away(tmp_path, make_daemon, make_simulator, length, server))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["fake", *(["real"] if apiserver.assets() else [])])
def test_an_api_server_that_is_away_for_ten_minutes(
    tmp_path: Path,
    make_daemon: MakeDaemon,
    make_simulator: MakeSimulator,
    record_property: Property,
    kind: str,
) -> None:
    """The same for ten minutes, in which the first token dies."""
    server = {"fake": fake, "real": apiserver}[kind]
    record_property("figures", away(tmp_path, make_daemon, make_simulator, LONG, server))


def test_a_start_while_the_api_server_is_away(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """Readers have what was published before, nobody is called, and all is well without a restart once it is back."""
    newest, so_far = begun.published(), calls(simulator)
    assert begun.stop() == 0
    with secrets.away("stopped"):
        begun.start(probe="/livez")
        assert "can't be reached" in refused(begun)
        assert begun.answers("/readyz")
        assert (begun.published(), calls(simulator)) == (newest, so_far)
    wait_for(begun, "ok")
    refresh(begun)
    assert secrets.generation() == 2
    assert begun.stop() == 0
    sound(simulator)


# The Secret falls back


def test_a_restored_secret(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """Under a running daemon it is healed; one that starts on it holds until the newer record is back."""
    with secrets.backed_up() as restore:
        refresh(begun, 3)
        restore()
        assert secrets.generation() == 1
        assert "another instance may know a newer record" in refused(begun)
        assert secrets.generation() == 4
        assert LOST in begun.text()
        newest, so_far = begun.published(), calls(simulator)

        with secrets.backed_up() as restore_newer:
            assert begun.stop() == 0
            restore()
            begun.start(probe="/livez")
            held = wait_for(begun, "in_doubt", "the store fell back: generation 4 was published here")
            assert "it holds generation 1" in held["reason"]
            assert "token-sidecar seed gmail --file FILE" in held["reason"]
            assert begun.answers("/readyz")
            begun.wait_until(
                lambda: begun.published() == newest, "its output is repaired or was never touched"
            )
            assert (secrets.generation(), calls(simulator)) == (1, so_far)
            restore_newer()
    wait_for(begun, "ok")
    secrets.end_lease()
    refresh(begun)
    assert secrets.generation() == 5
    assert begun.stop() == 0
    sound(simulator)


EMPTIED: dict[str, Object] = {
    "by a manifest with data: {}": {"data": None},
    "with all its notes": {"data": None, "metadata": {"annotations": None, "labels": None}},
    "by a deletion, and made anew": {},
}


@pytest.mark.parametrize("way", EMPTIED)
def test_an_emptied_secret(daemon: Daemon, secrets: Secrets, simulator: Simulator, way: str) -> None:
    """A running daemon writes the record again; one that starts without it takes no spent seed, until it is back."""
    seed = secrets.used_by(daemon).add(simulator)
    daemon.start()
    refresh(daemon)
    empty(secrets, way)
    assert "another instance may know a newer record" in refused(daemon)
    assert secrets.generation() == 2
    assert LOST in daemon.text()
    with secrets.backed_up() as restore:
        assert daemon.stop() == 0
        empty(secrets, way)
        daemon.start(probe="/livez")
        told = wait_for(daemon, "unseeded", "the store has no record of this token")
        assert "restore the store, or consent again: token-sidecar login gmail" in told["reason"]
        assert secrets.generation() == -1
        restore()
    wait_for(daemon, "ok")
    secrets.end_lease()
    refresh(daemon)
    assert simulator.provider.uses(seed) == 1
    assert daemon.stop() == 0
    sound(simulator)


def empty(secrets: Secrets, way: str) -> None:
    """Take the record away."""
    if EMPTIED[way]:
        secrets.patch(EMPTIED[way], manager="kubectl-replace")
        return
    [name] = secrets.names
    secrets.cluster.delete("secrets", secrets.namespace, name)
    secrets.make(name)


def test_a_deleted_secret(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """While it is gone nobody is called, and the command that makes it is told; made anew, it is filled again."""
    so_far, newest = calls(simulator), begun.published()
    [name] = secrets.names
    secrets.cluster.delete("secrets", secrets.namespace, name)
    assert f"create secret generic {name}" in refused(begun)
    wait_for(begun, "retrying", f"create secret generic {name}")
    assert (calls(simulator), begun.published()) == (so_far, newest)
    secrets.make(name)
    look(begun)
    begun.wait_until(lambda: secrets.generation() == 1, "it is written again", patience=2 * PATIENCE)
    secrets.end_lease()
    refresh(begun)
    assert begun.stop() == 0
    sound(simulator)


# The Secret is edited, taken over or forbidden


def test_a_secret_that_was_edited_by_hand(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """What is no record is left alone and told; a new refresh token in it is a repair, and used."""
    so_far, newest = calls(simulator), begun.published()
    record = secrets.secret()["data"]["record"]
    secrets.patch({"data": {"record": encoded(b"nonsense")}})
    assert "damaged, or was edited by hand" in refused(begun)
    wait_for(begun, "retrying", "damaged, or was edited by hand")
    assert secrets.secret()["data"]["record"] == encoded(b"nonsense")
    assert (calls(simulator), begun.published()) == (so_far, newest)

    fresh = simulator.provider.new_grant()
    document = json.loads(decoded(record))
    spent, document["refresh"]["value"] = document["refresh"]["value"], fresh
    secrets.patch({"data": {"record": encoded(json.dumps(document).encode())}})
    wait_for(begun, "ok")
    refresh(begun)
    assert (simulator.provider.uses(fresh), simulator.provider.uses(spent)) == (1, 0)
    assert begun.stop() == 0
    sound(simulator)


def test_a_secret_that_somebody_else_took_over(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """Where GitOps puts data into it, or ESO owns it, nobody is called and the owner is named; let go, all is well."""
    so_far = calls(simulator)
    [name] = secrets.names
    metadata = {"name": name, "namespace": secrets.namespace}
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    with_data = {**manifest, "data": {"other": encoded(b"x")}}
    secrets.cluster.apply(with_data, manager="argocd-controller")
    assert "Argo CD" in refused(begun)
    wait_for(begun, "retrying", "Argo CD")
    secrets.cluster.apply(manifest, manager="argocd-controller")
    wait_for(begun, "ok")
    refresh(begun)

    owner = {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": "mail", "uid": "1-2"}
    secrets.patch({"metadata": {"ownerReferences": [owner]}})
    assert "ExternalSecret mail" in refused(begun)
    secrets.patch({"metadata": {"ownerReferences": None}})
    wait_for(begun, "ok")
    refresh(begun)
    assert calls(simulator) == so_far + 2
    assert begun.stop() == 0
    sound(simulator)


def test_rights_that_are_taken_away(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """Without a right nobody is called and the rule is told; given back, the refresh follows without a restart."""
    for verb in ("patch", "get"):
        so_far = calls(simulator)
        [rule] = secrets.rules
        left = [one for one in rule.verbs if one != verb]
        secrets.cluster.allow(secrets.account, [type(rule)("secrets", left, rule.names)])
        said = refused(begun)
        assert verb in said
        assert secrets.names[0] in said
        wait_for(begun, "retrying", "resourceNames")
        assert calls(simulator) == so_far
        secrets.cluster.allow(secrets.account, [rule])
        wait_for(begun, "ok")
        refresh(begun)
    assert begun.stop() == 0
    sound(simulator)


def test_a_token_that_rotates(begun: Daemon, secrets: Secrets, simulator: Simulator) -> None:
    """Kubelet's new token is taken when the old one ends; while there is none that works, nobody is called."""
    secrets.account.revoke()
    so_far = calls(simulator)
    refused(begun)
    wait_for(begun, "retrying", "401")
    assert calls(simulator) == so_far
    secrets.account.renew()
    wait_for(begun, "ok")
    refresh(begun)
    assert begun.stop() == 0
    sound(simulator)


def test_notes_and_labels_of_others_change_nothing(
    begun: Daemon, secrets: Secrets, simulator: Simulator
) -> None:
    """Between two refreshes others annotate, label and sync it: no turn fails, and nothing of theirs is lost."""
    [name] = secrets.names
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": secrets.namespace,
            "annotations": {"argocd.argoproj.io/tracking-id": "x:/Secret:y"},
        },
        "type": "Opaque",
    }
    for number in range(3):
        secrets.patch({"metadata": {"labels": {"theirs": str(number)}}}, manager="kubectl-label")
        secrets.cluster.apply(manifest, manager="argocd-controller")
        refresh(begun)
    metadata = secrets.secret()["metadata"]
    assert metadata["labels"]["theirs"] == "2"
    assert metadata["annotations"]["argocd.argoproj.io/tracking-id"] == "x:/Secret:y"
    assert secrets.generation() == 4
    assert begun.stop() == 0
    sound(simulator)


def encoded(content: bytes) -> str:
    """Write what a Secret holds."""
    return base64.b64encode(content).decode()


def decoded(content: str) -> bytes:
    """Read it."""
    return base64.b64decode(content)
