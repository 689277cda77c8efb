"""A place for daemons' records in a Kubernetes API server, and those who change other things there meanwhile."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from sidecar.tokens import Record, decode_record
from tests.kube.cluster import ApiTrouble, Cluster, Object, Rule
from tests.kube.fake import Fake, Fault

if TYPE_CHECKING:
    import threading

    from tests.e2e.conftest import Daemon

PREFIX = "state"
LEASE = "token-sidecar/lease"
UNAVAILABLE = (OSError, httpx2.HTTPError, ApiTrouble)


class Secrets:
    """A namespace with one state Secret for each token, as the chart makes it, and an account that may do no more."""

    def __init__(self, cluster: Cluster, folder: Path, *tokens: str) -> None:
        """`folder`: where the account's token and a kubeconfig are put."""
        self.cluster = cluster
        self.namespace = cluster.namespace()
        self.names = [f"{PREFIX}-{token}" for token in tokens or ("gmail",)]
        self.rules = [Rule("secrets", ["get", "patch"], self.names)]
        for name in self.names:
            self.make(name)
        self.account = cluster.account(self.namespace, rules=self.rules)
        self.environment = {"KUBECONFIG": str(self.account.kubeconfig(folder))}

    @property
    def url(self) -> str:
        """The store's."""
        return f"kubernetes://{self.namespace}/{PREFIX}"

    def make(self, name: str) -> None:
        """Make a state Secret, with nothing in it."""
        self.cluster.make_secret(
            self.namespace, name, manager="helm", labels={"app.kubernetes.io/part-of": "x"}
        )

    def used_by(self, daemon: Daemon) -> Daemon:
        """Have a daemon keep its records there."""
        daemon.config |= {"store": self.url, "namespace": "shared"}
        daemon.environment |= self.environment
        return daemon

    def secret(self, token: str = "gmail") -> Object:
        """Return a token's Secret."""
        found = self.cluster.secret(self.namespace, f"{PREFIX}-{token}")
        assert found is not None
        return found

    def patch(self, change: Object, token: str = "gmail", *, manager: str = "admin") -> None:
        """Change a token's Secret behind the daemons' backs."""
        self.cluster.patch("secrets", self.namespace, f"{PREFIX}-{token}", change, manager=manager)

    def find(self, token: str = "gmail") -> Record | None:
        """Return a token's record, as it is there."""
        data = self.cluster.secret_data(self.namespace, f"{PREFIX}-{token}")
        return decode_record(data["record"]) if "record" in data else None

    def record(self, token: str = "gmail") -> Record:
        """Return the record that must be there."""
        record = self.find(token)
        assert record is not None, "the Secret holds no record"
        return record

    def generation(self, token: str = "gmail") -> int:
        """Return the generation that is there; -1: no record."""
        record = self.find(token)
        return record.generation if record is not None else -1

    def end_lease(self, token: str = "gmail") -> None:
        """Take the protection from what was written last."""
        assert LEASE in self.secret(token)["metadata"]["annotations"], "it was not protected"
        self.patch({"metadata": {"annotations": {LEASE: None}}}, token)

    @contextmanager
    def backed_up(self, token: str = "gmail") -> Iterator[Callable[[], None]]:
        """Make a backup of a Secret; gives what restores it, as a restore tool does: with its notes, by a PUT."""
        kept = self.secret(token)
        for name in ("resourceVersion", "managedFields", "uid", "creationTimestamp"):
            del kept["metadata"][name]
        yield lambda: self._put(kept)

    def _put(self, content: Object) -> None:
        self.cluster.replace(content, manager="velero-server")

    def away(self, way: str) -> AbstractContextManager[None]:
        """Be out of reach for the length of the block."""
        return {"stopped": self.cluster.down, "silent": self.cluster.silent, "mute": self._muted}[way]()

    @contextmanager
    def _muted(self) -> Iterator[None]:
        """Do what is asked, and answer nothing."""
        assert isinstance(self.cluster, Fake)
        self.cluster.faults.append(Fault(close="after", times=None))
        try:
            yield
        finally:
            self.cluster.faults.clear()


class Hostile:
    """Somebody who writes to a Secret all the time: other parts of it, and all of it from what is outdated."""

    def __init__(self, secrets: Secrets, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        """What was done, and whether it was taken."""
        self._secrets = secrets
        self._rng = rng
        self._old: list[Object] = []

    def run(self, over: threading.Event, pause: float) -> None:
        """Do it until it is over; `pause`: mean seconds between two deeds."""
        ways = [self._note, self._label, self._sync, self._put_old, self._patch_old]
        while not over.wait(self._rng.expovariate(1 / pause)):
            way = self._rng.choice(ways)
            try:
                way()
            except UNAVAILABLE as error:
                refused = isinstance(error, ApiTrouble) and error.code == 409
                self.done[f"{way.__name__.strip('_')} {'refused' if refused else 'failed'}"] += 1
            else:
                self.done[f"{way.__name__.strip('_')} done"] += 1

    def _note(self) -> None:
        """Annotate it, as backup tools and people do."""
        self._secrets.patch(
            {"metadata": {"annotations": {"example.org/seen": str(time.time())}}}, manager="kubectl"
        )

    def _label(self) -> None:
        """Set a label and take it away again."""
        for value in ("x", None):
            self._secrets.patch(
                {"metadata": {"labels": {"example.org/mark": value}}}, manager="kubectl-label"
            )

    def _sync(self) -> None:
        """Apply the chart's manifest, which has no data."""
        metadata = {
            "name": f"{PREFIX}-gmail",
            "namespace": self._secrets.namespace,
            "annotations": {"argocd.argoproj.io/tracking-id": f"x:{self._rng.random()}"},
        }
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
        self._secrets.cluster.apply(manifest, manager="argocd-controller")

    def _put_old(self) -> None:
        """Put what was read some time ago, and what its version is."""
        self._remember()
        self._secrets.cluster.replace(self._rng.choice(self._old), manager="stale")

    def _patch_old(self) -> None:
        """Patch old data in, with the version that it had."""
        self._remember()
        old = self._rng.choice(self._old)
        version = {"resourceVersion": old["metadata"]["resourceVersion"]}
        self._secrets.patch({"metadata": version, "data": old.get("data")}, manager="stale")

    def _remember(self) -> None:
        self._old = [*self._old[-9:], self._secrets.secret()]
