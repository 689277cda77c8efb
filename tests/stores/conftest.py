"""The stores that the conformance suite runs over: a new one joins by one line in `BACKENDS`."""

# ruff: noqa: S608 - what is put into statements is made here

from __future__ import annotations

import base64
import json
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from sidecar.clients.aws import VALUE_LIMIT, SecretsManager
from sidecar.clients.kubernetes import SECRET_LIMIT, Secret
from sidecar.config.aws import SecretsPlace
from sidecar.config.kubernetes import SecretPlace
from sidecar.ports import Store
from sidecar.seal import open_sealer
from sidecar.stores import open_store
from sidecar.stores.aws import AwsStore
from sidecar.stores.kubernetes import LABELS, KubernetesStore
from sidecar.stores.memory import MemoryStore, _Row
from sidecar.stores.sqlite import SqliteStore
from tests.aws.moto import Moto
from tests.kube.apiserver import assets
from tests.kube.cluster import Account, Cluster, Rule
from tests.postgres import Server


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return 1.8e9 + self.now

    def boot(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Backend(Protocol):
    """What the suite needs to know of a store beside the contract."""

    keys: tuple[Path, ...]
    """The key files that its records are sealed with."""
    observes: bool
    """Whether a lease counts from when an instance first saw it, there being no clock that all instances share."""
    limit: int | None
    """Bytes that a record may have at most; None: more than any has."""

    def __init__(self, directory: Path) -> None:
        """Take an empty directory of its own."""
        ...

    @property
    def url(self) -> str | None:
        """What other processes open it by; None where it lives in this one."""
        ...

    def open(self) -> Store:
        """Make another instance on the same records."""
        ...

    async def advance(self, seconds: float) -> None:
        """Let time pass on the clock by which the store judges leases."""
        ...

    async def put_blob(self, key: str, blob: bytes) -> None:
        """Put arbitrary bytes where the record under `key` is or would be, behind the store's back."""
        ...

    async def get_blob(self, key: str) -> bytes:
        """Read the bytes that are there."""
        ...


class Clocked:
    """Its leases count on one clock, and its records may be of any size."""

    observes = False
    limit: int | None = None


class MemoryBackend(Clocked):
    """Every instance is the same object."""

    keys: tuple[Path, ...] = ()

    def __init__(self, directory: Path) -> None:  # noqa: ARG002 - it needs none
        self.url: str | None = None
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock, open_sealer(self.keys))

    def open(self) -> Store:
        return self.store

    async def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    async def put_blob(self, key: str, blob: bytes) -> None:
        self.store._rows[key] = _Row(version="by hand", blob=blob, lease_until=0.0)

    async def get_blob(self, key: str) -> bytes:
        return self.store._rows[key].blob


class SqliteBackend(Clocked):
    """Every instance has its own connection to one file."""

    keys: tuple[Path, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tokens.db"
        self.url: str | None = f"sqlite://{self.path}"
        self.clock = ManualClock()

    def open(self) -> Store:
        return SqliteStore(self.path, self.clock, open_sealer(self.keys))

    async def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    async def put_blob(self, key: str, blob: bytes) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("REPLACE INTO records (key, version, blob) VALUES (?, 7, ?)", (key, blob))

    async def get_blob(self, key: str) -> bytes:
        with closing(sqlite3.connect(self.path)) as connection:
            row = connection.execute("SELECT blob FROM records WHERE key = ?", (key,)).fetchone()
        return bytes(row[0])


class PostgresBackend(Clocked):
    """Every instance has its own connection to one schema of a real server."""

    keys: tuple[Path, ...] = ()
    server: Server
    """Of this process; set before the first use."""

    def __init__(self, directory: Path) -> None:  # noqa: ARG002 - the server has one
        self.schema = f"s{secrets.token_hex(6)}"
        self.url: str | None = self.server.url(schema=self.schema)
        self.records = f"{self.schema}.token_sidecar_records"

    def open(self) -> Store:
        assert self.url is not None
        return open_store(self.url, ManualClock(), open_sealer(self.keys))

    async def advance(self, seconds: float) -> None:
        """Move all leases by so much into the past."""
        await self._sql(f"UPDATE {self.records} SET lease_until = lease_until - interval '{seconds} s'")

    async def put_blob(self, key: str, blob: bytes) -> None:
        key, content = key.replace("'", "''"), rf"'\x{blob.hex()}'"
        await self._sql(
            f"INSERT INTO {self.records} (key, version, blob) VALUES ('{key}', 'by hand', {content})"
            "ON CONFLICT (key) DO UPDATE SET version = excluded.version, blob = excluded.blob"
        )

    async def get_blob(self, key: str) -> bytes:
        [row] = await self._sql(f"SELECT blob FROM {self.records} WHERE key = '{key}'")
        return bytes(row["blob"])

    async def _sql(self, statement: str) -> list[Any]:
        async with self.open() as store:
            await store.keys()  # which makes the tables
        return await self.server.sql_async(statement)


class KubernetesBackend:
    """Every instance has its own connections to one namespace of an API server, and its own memory of leases."""

    keys: tuple[Path, ...] = ()
    observes = True
    limit: int | None = SECRET_LIMIT
    cluster: Cluster
    account: Account
    """Of this process; set before the first use, and $KUBECONFIG with them."""

    def __init__(self, directory: Path) -> None:  # noqa: ARG002 - the server has one
        self.namespace = self.cluster.namespace()
        self.cluster.allow(
            self.account, [Rule("secrets", ["get", "patch", "list"])], namespace=self.namespace
        )
        self.place = SecretPlace(self.namespace, "state")
        self.clock = ManualClock()
        self._made: set[str] = set()

    @property
    def url(self) -> str:
        """Where other processes find what they write."""
        for name in ("race", "a", "b", "c"):
            self.make(f"ns/{name}")
        return self.place.url

    def open(self) -> Store:
        return SpontaneousStore(self)

    async def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    async def put_blob(self, key: str, blob: bytes) -> None:
        """Do what a restored backup does, which brings along what else says that it is a record."""
        metadata = {"annotations": {"token-sidecar/key": key}, "labels": LABELS}
        content = {"metadata": metadata, "data": {"record": base64.b64encode(blob).decode()}}
        self.cluster.patch("secrets", self.namespace, self.make(key), content)

    async def get_blob(self, key: str) -> bytes:
        return self.cluster.secret_data(self.namespace, self.make(key))["record"]

    def make(self, key: str) -> str:
        """Have the Secret of a key made, as the chart does, and return its name."""
        name = self.place.secret_of(key.partition("/")[2])
        if name not in self._made:
            self._made.add(name)
            self.cluster.make_secret(self.namespace, name)
        return name


class SpontaneousStore(KubernetesStore):
    """One before which an admin runs, who makes the Secrets: the suite names its keys as it goes."""

    def __init__(self, backend: KubernetesBackend) -> None:
        super().__init__(backend.place, backend.clock, open_sealer(backend.keys))
        self._backend = backend

    async def _get(self, key: str) -> Secret:
        self._backend.make(key)
        return await super()._get(key)


class AwsBackend:
    """Every instance has its own client of Secrets Manager, and its own memory of leases."""

    keys: tuple[Path, ...] = ()
    observes = True
    limit: int | None = VALUE_LIMIT - 1024
    """What a record has beside its token lies in the secret as well."""
    moto: Moto
    """Of this process; set before the first use, and the SDK's environment with it."""

    def __init__(self, directory: Path) -> None:  # noqa: ARG002 - the server has one
        self.place = SecretsPlace(self.moto.prefix())
        self.url: str | None = self.place.url
        self.clock = ManualClock()
        self._by_hand: dict[str, bytes] = {}

    def open(self) -> Store:
        return AwsStore(self.place, self.clock, SecretsManager(), namespace="ns")

    async def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    async def put_blob(self, key: str, blob: bytes) -> None:
        """Put what is a JSON object where a record's own part is; anything else is the whole value."""
        name = self.place.secret_of(key)
        try:
            member = json.loads(blob)
        except (ValueError, RecursionError):
            member = None
        text = blob.decode(errors="replace") or " "
        if isinstance(member, dict):
            text = json.dumps({"token_sidecar": member})
        self._by_hand[text] = blob
        self.moto.put(name, text)
        self.moto.client.tag_resource(
            SecretId=name, Tags=[{"Key": "token-sidecar:namespace", "Value": key.partition("/")[0]}]
        )

    async def get_blob(self, key: str) -> bytes:
        text = self.moto.text(self.place.secret_of(key))
        return self._by_hand.get(text, text.encode())


class SealedMemoryBackend(MemoryBackend):
    """Its records are sealed."""

    def __init__(self, directory: Path) -> None:
        self.keys = (new_key(directory),)
        super().__init__(directory)


class SealedSqliteBackend(SqliteBackend):
    """Its records are sealed."""

    def __init__(self, directory: Path) -> None:
        self.keys = (new_key(directory),)
        super().__init__(directory)


class SealedPostgresBackend(PostgresBackend):
    """Its records are sealed."""

    def __init__(self, directory: Path) -> None:
        self.keys = (new_key(directory),)
        super().__init__(directory)


class SealedKubernetesBackend(KubernetesBackend):
    """Its records are sealed."""

    def __init__(self, directory: Path) -> None:
        self.keys = (new_key(directory),)
        super().__init__(directory)


def new_key(directory: Path, name: str = "store.key") -> Path:
    """Make a key file."""
    path = directory / name
    path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    return path


BACKENDS: dict[str, type[Backend]] = {
    "memory": MemoryBackend,
    "sqlite": SqliteBackend,
    "postgres": PostgresBackend,
    "memory-sealed": SealedMemoryBackend,
    "sqlite-sealed": SealedSqliteBackend,
    "postgres-sealed": SealedPostgresBackend,
    "kubernetes": KubernetesBackend,
    "kubernetes-sealed": SealedKubernetesBackend,
    "aws": AwsBackend,
}
if assets():
    BACKENDS |= {"kubernetes-real": KubernetesBackend, "kubernetes-sealed-real": SealedKubernetesBackend}
ASYNCIO_ONLY = {"postgres", "postgres-sealed", "aws"}
"""Their client libraries know no other event loop."""
SEALED_ON_SERVERS = {"postgres-sealed", "kubernetes-sealed", "kubernetes-sealed-real"}
"""Sealing comes before all in which stores differ. The sealed ones in this process keep the whole law; these show that
sealed bytes, versions and sizes get there and back."""
SHOWN_ON_SERVERS = {
    "test_a_large_record_survives",
    "test_a_record_of_a_newer_version_says_so",
    "test_a_version_is_compared_character_by_character",
    "test_a_write_is_read_back",
    "test_a_write_with_an_old_version_changes_nothing",
    "test_an_unreadable_record_is_left_untouched",
    "test_every_acknowledged_write_survives_sigkill",
    "test_nothing_shows_a_secret",
    "test_one_of_many_processes_wins",
    "test_text_of_any_script_survives",
    "test_two_instances_see_each_others_writes",
    "test_what_is_sealed_shows_nothing",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what would only be skipped, a store on an event loop that it is not for, and what shows nothing new."""
    for item in items[:]:
        params = getattr(getattr(item, "callspec", None), "params", {})
        store = params.get("backend_class", params.get("replica"))
        unfit = store in ASYNCIO_ONLY and params.get("anyio_backend", "asyncio") != "asyncio"
        if unfit or (store in SEALED_ON_SERVERS and _is_shown_elsewhere(item)):
            items.remove(item)
        elif params.get("backend_class") == "aws" and params.get("seed", 0) > 1:
            # Each takes seconds, and the steps inside of a write are broken off one by one in test_aws.py.
            items.remove(item)


def _is_shown_elsewhere(item: pytest.Item) -> bool:
    name = getattr(item, "originalname", item.name)
    return item.path.name == "test_conformance.py" and name not in SHOWN_ON_SERVERS


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend_class(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[type[Backend]]:
    """Every store in turn."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "aws":
            AwsBackend.moto = request.getfixturevalue("moto")
            for name, value in AwsBackend.moto.env.items():
                patch.setenv(name, value)
        elif request.param in ASYNCIO_ONLY:
            PostgresBackend.server = request.getfixturevalue("server")
        if request.param.startswith("kubernetes"):
            kind = "real" if request.param.endswith("-real") else "fake"
            cluster: Cluster = request.getfixturevalue(f"{kind}_cluster")
            KubernetesBackend.cluster = cluster
            KubernetesBackend.account = account = cluster.account(cluster.namespace())
            patch.setenv("KUBECONFIG", str(account.kubeconfig(tmp_path_factory.mktemp("kube"))))
        yield BACKENDS[request.param]


@pytest.fixture
def backend(backend_class: type[Backend], tmp_path: Path) -> Backend:
    """A fresh place for records."""
    return backend_class(tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    """An open instance on it."""
    async with backend.open() as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    """A clock for stores that are made by hand."""
    return ManualClock()
