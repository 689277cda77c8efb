"""A secret of AWS as an output, over moto's server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.clients.aws import Fault, Kind, SecretsManager
from sidecar.config.settings import AwsSecret, OutputTarget
from sidecar.errors import OutputError
from sidecar.outputs.aws_secret import AwsOutput
from sidecar.ports import Grade, Publication
from sidecar.tokens import fingerprint
from tests.aws.moto import Moto
from tests.outputs.conftest import HandClock

Make = Callable[..., Publication]
THEIRS = {"google_email": "alice@example.com", "access_token": "old", "created_at": "2026-11-01T08:00:00"}


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows no other event loop."""
    return "asyncio"


class Site:
    """One secret, and daemons that publish to it."""

    def __init__(self, moto: Moto, folder: Path) -> None:
        self.moto = moto
        self.folder = folder
        self.clock = HandClock()
        self.api = SecretsManager()
        self.name = f"{moto.prefix()}/gmail"

    def open(self, *, state: str = "state", **options: Any) -> AwsOutput:
        place = AwsSecret(name=self.name)
        target = OutputTarget(**{"aws_secret": place, "format": "json", **options})
        return AwsOutput(target, place, self.api, state_dir=self.folder / state, clock=self.clock)


@pytest.fixture
async def site(aws: Moto, tmp_path: Path) -> AsyncIterator[Site]:
    """A place of one's own."""
    made = Site(aws, tmp_path)
    async with made.api:
        yield made


async def test_members_of_others_stay(site: Site, make: Make) -> None:
    """A JSON object keeps what is not ours; what is right already is not written again."""
    site.moto.put(site.name, THEIRS)
    output = site.open()
    assert await output.publish(make())
    found = site.moto.value(site.name)
    assert found["access_token"] == make().access.value
    assert {key: found[key] for key in ("google_email", "created_at")} == {
        "google_email": "alice@example.com",
        "created_at": "2026-11-01T08:00:00",
    }
    versions = site.moto.versions(site.name)
    assert not await output.publish(make())
    assert site.moto.versions(site.name) == versions
    assert (await output.read_back()).fingerprint == make().access.fingerprint


async def test_a_secret_that_is_missing_is_created(site: Site, make: Make) -> None:
    """New accounts have no secret yet; a bare token is one, too."""
    output = site.open(format="raw")
    await output.look()
    assert (await output.read_back()).problem == "does not exist"
    assert await output.publish(make())
    assert site.moto.text(site.name).strip() == make().access.value


async def test_two_daemons_make_one_version(site: Site, make: Make) -> None:
    """The second of two that publish the same adds nothing, and knows what is there and of which lineage."""
    site.moto.put(site.name, THEIRS)
    assert await site.open(state="one").publish(make())
    second = site.open(state="two")
    assert not await second.publish(make())
    assert len(site.moto.versions(site.name)) == 2
    assert (await second.read_back()).lineage == make().lineage


async def test_two_daemons_at_once_make_one_version(site: Site, make: Make) -> None:
    """Who publishes the same in the same moment adds the very version that is there by then."""
    site.moto.put(site.name, THEIRS)
    first, second, put = site.open(state="one"), site.open(state="two"), site.api.put

    async def late(name: str, text: str, **rest: Any) -> None:
        site.api.put = put  # type: ignore[method-assign]
        assert await first.publish(make())
        await put(name, text, **rest)

    site.api.put = late  # type: ignore[method-assign]
    assert not await second.publish(make())
    assert len(site.moto.versions(site.name)) == 2


async def test_a_daemon_that_is_behind_changes_nothing(site: Site, make: Make) -> None:
    """Who has not heard of a refresh does not put the old token back, even while the new one is on its way."""
    site.moto.put(site.name, THEIRS)
    newer = make(7)
    assert await site.open(state="one").publish(newer)
    behind = site.open(state="two")
    assert not await behind.publish(make())
    assert site.moto.value(site.name)["access_token"] == newer.access.value
    assert (await behind.read_back()).fingerprint == fingerprint(newer.access.value)


async def test_whoever_wrote_meanwhile_is_not_overwritten_unseen(site: Site, make: Make) -> None:
    """A write that came between is looked at, and its members stay."""
    site.moto.put(site.name, THEIRS)
    output, put = site.open(), site.api.put
    between = iter([True])

    async def overtaken(name: str, text: str, **rest: Any) -> None:
        await put(name, text, **rest)
        if next(between, False):
            site.moto.put(name, {**THEIRS, "google_name": "Alice"})

    site.api.put = overtaken  # type: ignore[method-assign]
    assert await output.publish(make())
    found = site.moto.value(site.name)
    assert (found["google_name"], found["access_token"]) == ("Alice", make().access.value)


@pytest.mark.parametrize(
    ("kind", "grade"), [(None, Grade.OK), (Kind.FORBIDDEN, Grade.FAILED), (Kind.UNREACHABLE, Grade.FAILED)]
)
async def test_doctor_tries_it_without_a_trace(site: Site, kind: Kind | None, grade: Grade) -> None:
    """Adding the version that is there takes the right to write, and does nothing."""
    site.moto.put(site.name, THEIRS)
    before = site.moto.versions(site.name)

    async def refused(*_: Any, **__: Any) -> None:
        assert kind is not None
        raise Fault(kind, "it may not PutSecretValue", "allow it", refused=True)

    if kind is not None:
        site.api.put = refused  # type: ignore[method-assign]
    [finding] = await site.open().diagnose()
    assert finding.grade is grade
    assert site.moto.versions(site.name) == before


async def test_what_stands_in_the_way_is_told(site: Site, make: Make) -> None:
    """A secret that is marked for deletion is left alone, and the way out is named."""
    site.moto.put(site.name, THEIRS)
    site.moto.client.delete_secret(SecretId=site.name)
    with pytest.raises(OutputError, match="marked for deletion; restore it"):
        await site.open().publish(make())
