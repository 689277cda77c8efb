"""One place for records of each kind: what a daemon is told, and what a bare program is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from tests import postgres
from tests.aws import moto
from tests.kube import fake
from tests.kube.cluster import Rule


class Place(msgspec.Struct, frozen=True):
    """Where records are kept."""

    kind: str
    store: str
    """For the configuration."""
    bare: str = ""
    """For `bench.bare`."""
    environ: dict[str, str] = {}


@contextmanager
def folder() -> Iterator[Path]:
    """Make a directory on tmpfs where there is one: what a disk takes isn't what is measured."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a directory of its own is made there
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as name:
        yield Path(name)


@contextmanager
def sqlite() -> Iterator[Place]:
    """Keep records in a file."""
    with folder() as within:
        yield Place("sqlite", f"sqlite://{within / 'records.db'}", str(within))


@contextmanager
def on_postgres() -> Iterator[Place]:
    """Keep records in a PostgreSQL over loopback."""
    with postgres.running() as server:
        url = server.url(server.database())
        yield Place("postgres", url, url)


@contextmanager
def on_kubernetes() -> Iterator[Place]:
    """Keep records in Secrets of the tests' API server."""
    with fake.running() as cluster, folder() as within:
        namespace = cluster.namespace()
        names = ["state-token"]
        cluster.make_secret(namespace, "state-token", manager="helm")
        account = cluster.account(namespace, rules=[Rule("secrets", ["get", "patch"], names)])
        environ = {"KUBECONFIG": str(account.kubeconfig(within))}
        yield Place("kubernetes", f"kubernetes://{namespace}/state", environ=environ)


@contextmanager
def on_aws() -> Iterator[Place]:
    """Keep records in secrets of moto's server."""
    with moto.running() as server:
        yield Place("aws", f"aws-secretsmanager://{server.prefix()}", environ=server.env)


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "sqlite": sqlite,
    "postgres": on_postgres,
    "kubernetes": on_kubernetes,
    "aws": on_aws,
}
