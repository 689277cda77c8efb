"""A seed in a Secret, over a fake API server, and a real one where its programs are."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.clients.shared import SharedClients
from sidecar.config.settings import SecretKey, SeedSource
from sidecar.errors import SeedError
from sidecar.ports import Seed
from sidecar.schedule import QUIET_POLL
from sidecar.seeds import open_seed
from tests.kube.cluster import Account, Cluster, Rule
from tests.outputs.conftest import HandClock

NAME = "gmail-oauth"
KEY = "seed.json"
FIRST, SECOND = "sim-rt-0123456789abcdef", "sim-rt-fedcba9876543210"


class Site:
    """A place for a seed, and a daemon that may read it and nothing else."""

    def __init__(self, cluster: Cluster, namespace: str, clients: SharedClients) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.clients = clients
        self.clock = HandClock()
        self.account: Account = cluster.account(namespace, rules=[Rule("secrets", ["get"], [NAME])])

    def open(self, key: str = KEY, **options: Any) -> Seed:
        """Open the seed as a daemon of this namespace does."""
        source = SeedSource(kubernetes_secret=SecretKey(name=NAME, key=key), **options)
        return open_seed(source, clock=self.clock, clients=self.clients)

    def put(self, content: bytes, key: str = KEY) -> None:
        """Put a refresh token there, as an operator does."""
        change = {"data": {key: base64.b64encode(content).decode()}}
        if self.cluster.secret(self.namespace, NAME) is None:
            self.cluster.make_secret(self.namespace, NAME)
        self.cluster.patch("secrets", self.namespace, NAME, change)

    def later(self) -> None:
        """Let so much time pass that it is looked at again."""
        self.clock.now += QUIET_POLL / 2


@pytest.fixture
async def site(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """Be an account that may read the Secret."""
    async with SharedClients() as clients:
        site = Site(cluster, namespace, clients)
        monkeypatch.setenv("KUBECONFIG", str(site.account.kubeconfig(tmp_path / "account")))
        yield site


async def value(seed: Seed) -> str | None:
    """Read the refresh token that is there."""
    seeding = await seed.read()
    return seeding.refresh.value if seeding else None


async def test_it_is_read_in_the_pods_own_namespace(site: Site) -> None:
    """Where no namespace is named it is the daemon's own, and what is recognised in files is here as well."""
    site.put(f'{{"refresh_token": "{FIRST}"}}'.encode())
    seed = site.open()

    assert await value(seed) == FIRST
    assert seed.id == f"secret:{site.namespace}/{NAME}/{KEY}"


async def test_what_is_missing_leaves_it_unseeded_and_says_what_to_do(site: Site) -> None:
    """A Secret, its key and its content may come later, each with its own words."""
    seed = site.open()
    assert await value(seed) is None
    assert seed.missing.endswith(
        f"kubectl -n {site.namespace} create secret generic {NAME} --from-file={KEY}=FILE"
    )

    for content, words in (
        ((b"x", "other"), "is not there yet: put the refresh token under the key seed.json"),
        ((b" \n", KEY), "is empty: put the refresh token under the key seed.json"),
    ):
        site.put(*content)
        site.later()
        assert await value(seed) is None
        assert seed.missing == f"the seed {seed.id} {words}"

    site.put(b'{"refresh_token": "%s"}' % FIRST.encode())
    site.later()
    assert await value(seed) == FIRST
    assert seed.missing == ""


async def test_a_change_is_found_and_nobody_is_asked_in_between(site: Site) -> None:
    """However often turns come, the API is asked twice a minute at most; the answer serves meanwhile."""
    site.put(FIRST.encode(), "token")
    seed = site.open("token")
    assert await value(seed) == FIRST
    with site.cluster.down():
        assert await value(seed) == FIRST
    site.put(SECOND.encode(), "token")
    assert await value(seed) == FIRST

    site.later()

    assert await value(seed) == SECOND


async def test_an_unchanged_seed_is_the_same_seed(site: Site) -> None:
    """What was read once is not given a new date at each look."""
    site.put(FIRST.encode(), "token")
    seed = site.open("token")
    before = await seed.read()
    site.later()

    assert await seed.read() == before


async def test_an_outage_is_an_error_that_passes(site: Site) -> None:
    """It is remembered too: an API server in trouble holds nobody up twice in half a minute."""
    site.put(FIRST.encode(), "token")
    seed = site.open("token")
    with site.cluster.down():
        for _ in range(2):
            with pytest.raises(SeedError, match="the API server"):
                await seed.read()
    with pytest.raises(SeedError):
        await seed.read()

    site.later()

    assert await value(seed) == FIRST


async def test_a_lacking_right_prints_a_rule_for_reading_alone(site: Site) -> None:
    """A seed is never written, so no right to do so is asked for."""
    site.put(FIRST.encode(), "token")
    site.cluster.allow(site.account, [])

    with pytest.raises(SeedError) as caught:
        await site.open("token").read()

    assert f"resources: [secrets], resourceNames: [{NAME}], verbs: [get]}}" in str(caught.value)


async def test_what_is_no_refresh_token_is_refused_without_quoting_it(site: Site) -> None:
    """The rule for names that end in .json holds for keys, too; and the error stays until the content changes."""
    site.put(FIRST.encode())
    seed = site.open()
    for _ in range(2):
        with pytest.raises(SeedError, match=r"no JSON object although its name ends in \.json") as caught:
            await seed.read()
        assert FIRST not in str(caught.value)
        site.later()
    assert await value(site.open(format="raw")) == FIRST
