"""A seed in a secret of AWS, and a client's id in another, over moto's server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from sidecar.clients.shared import SharedClients
from sidecar.clock import SystemClock
from sidecar.config.settings import AwsSecret, Client, SeedSource
from sidecar.errors import ConfigError, SeedError
from sidecar.grants.client import ClientIdentity
from sidecar.profile import Profile
from sidecar.schedule import QUIET_POLL
from sidecar.seeds import open_seed
from tests.outputs.conftest import HandClock

if TYPE_CHECKING:
    from tests.aws.moto import Moto

RT = "sim-rt-0123456789abcdef01234567"


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows no other event loop."""
    return "asyncio"


@pytest.fixture
async def clients() -> AsyncIterator[SharedClients]:
    """The clients of a daemon."""
    async with SharedClients() as made:
        yield made


async def test_a_secret_is_a_seed(aws: Moto, clients: SharedClients) -> None:
    """Missing, empty, bare, and in JSON: it is looked at again after a while, and never written."""
    name, clock = f"{aws.prefix()}/seed", HandClock()
    seed = open_seed(SeedSource(aws_secret=AwsSecret(name=name)), clock=clock, clients=clients)
    assert await seed.read() is None
    assert f"the secret {name}: there is none; create it" in seed.missing
    for content, value in ((" ", None), (RT, RT), (json.dumps({"refresh_token": f"{RT}-2"}), f"{RT}-2")):
        aws.put(name, content)
        clock.now += QUIET_POLL / 2
        found = await seed.read()
        assert (found.refresh.value if found else None) == value
    assert len(aws.versions(name)) == 3


async def test_a_seed_that_cannot_be_read_is_an_error(
    aws: Moto, clients: SharedClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API that is away is not the same as a seed that is missing."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    seed = open_seed(SeedSource(aws_secret=AwsSecret(name="x")), clock=HandClock(), clients=clients)
    with pytest.raises(SeedError, match="AWS can't be reached"):
        await seed.read()
    assert aws.url


@pytest.mark.parametrize(
    "content", ["ios-client", '{"client_id": "ios-client"}', '{"installed": {"client_id": "ios-client"}}']
)
async def test_a_clients_id_is_in_a_secret(aws: Moto, content: str) -> None:
    """Bare, in JSON or as Google's console gives it; until it was looked at, the error says so."""
    name = f"{aws.prefix()}/client"
    aws.put(name, content)
    identity = ClientIdentity(Client(id_aws_secret=name), Profile(), SystemClock())
    with pytest.raises(ConfigError, match=r"client\.id_aws_secret .*: was not asked for yet"):
        identity.credentials()
    await identity.look()
    assert identity.credentials().id == "ios-client"


async def test_a_clients_id_outlives_an_outage(
    aws: Moto, clients: SharedClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read once still counts while AWS is away; what never was is an error with the way out."""
    name = f"{aws.prefix()}/client"
    identity = ClientIdentity(Client(id_aws_secret=name), Profile(), SystemClock())
    identity.clients = clients
    await identity.look()
    with pytest.raises(ConfigError, match="there is none; create it"):
        identity.credentials()
    aws.put(name, "ios-client")
    await identity.look()
    assert identity.credentials().id == "ios-client"
    clients.secrets_manager._texts.clear()
    await clients.secrets_manager.__aexit__()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    await identity.look()
    assert identity.credentials().id == "ios-client"
