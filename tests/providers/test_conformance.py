"""The whole catalogue, each provider played by the simulator as its profile describes it.

Grants, answers, rotation and the engine are the real ones. The first tests speak HTTP, where shapes matter; the others
run a daemon for days of virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sidecar import outcomes, providers
from sidecar.clients.http import HttpClient
from sidecar.clock import SystemClock
from sidecar.config.settings import Client, TokenSettings
from sidecar.errors import NoAnswer
from sidecar.grants import open_grant
from sidecar.ports import Grant
from sidecar.profile import ExpiryKind, GrantType, InDoubt, Profile, Rotation
from sidecar.testing import ProviderConfig, Simulator, faults, shapes
from sidecar.testing import Rotation as ProviderRotation
from sidecar.tokens import ExpirySource, GrantState, OutcomeClass, RefreshToken
from tests.engine.conftest import Daemon, House
from tests.providers.loopback import Loopback

pytestmark = pytest.mark.anyio

TTL = 3600.0
OTHER_TTL = 2400.0
SCOPE = "mail.read mail.send"
UNTELLABLE = {"withings"}
"""Nobody told us by what these say that a refresh token is refused."""

WITHOUT_REFRESH_TOKEN = [name for name in providers.names() if providers.load(name).grant.is_signed]
REFRESHED = [name for name in providers.names() if name not in WITHOUT_REFRESH_TOKEN]
MORTAL = [name for name in providers.names() if not providers.load(name).zero_means_never]

signed = pytest.mark.parametrize("name", WITHOUT_REFRESH_TOKEN)
refreshed = pytest.mark.parametrize("name", REFRESHED)
mortal = pytest.mark.parametrize("name", MORTAL)


def known(name: str, token_url: str) -> Profile:
    """Load a profile for a simulated provider, whose access tokens live for an hour where answers don't say."""
    profile = providers.load(name)
    lives = TTL if profile.default_ttl else None
    return msgspec.structs.replace(profile, token_url=token_url, default_ttl=lives)


class Key(NamedTuple):
    """A client's key pair: the private half in a file, the public one for the provider."""

    file: Path
    public: str

    @classmethod
    def make(cls, directory: Path, name: str) -> Key:
        """Make one, of a curve since that takes no time."""
        private = ec.generate_private_key(ec.SECP256R1())
        path = directory / f"{name}.pem"
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.chmod(0o600)
        return cls(
            path, private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    """The client's key, and somebody else's."""
    directory = tmp_path_factory.mktemp("keys")
    return Key.make(directory, "own"), Key.make(directory, "other")


def played(profile: Profile, **changes: Any) -> ProviderConfig:
    """Let the simulator act like a profile, with access tokens of an hour where they end at all."""
    lives = {} if profile.zero_means_never else {"access_ttl": TTL}
    return ProviderConfig.like(profile, **{**lives, **changes})


def client(config: ProviderConfig, key: Path | None = None, **changes: Any) -> TokenSettings:
    """Be the client that the provider knows, in the only way that its profile names."""
    proof: dict[str, Any] = {"id": config.client_id, "secret": config.client_secret}
    if key is not None:
        proof = {"id": config.client_id, "private_key_file": key}
    installation = "1" if config.profile.grant is GrantType.GITHUB_INSTALLATION else None
    return TokenSettings(
        client=Client(**{**proof, **changes}), scopes=tuple(SCOPE.split()), installation=installation
    )


def consent(simulated: Simulator | House) -> str:
    """Consent, and return what the seed would hold."""
    provider = simulated.provider
    if provider.config.profile.grant is GrantType.LIVING_TOKEN:
        return provider.new_living_token(SCOPE)
    return provider.new_grant(SCOPE)


class Open:
    """Lets every request pass."""

    def open(self) -> None:
        """Do nothing."""


class Caller:
    """A grant that speaks HTTP to a simulated provider."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.profile = known(name, "")
        self.simulator = Simulator(played(self.profile, **changes))
        self.clock = SystemClock()

    async def call(self, refresh: str | None, key: Path | None = None, **changes: Any) -> outcomes.Outcome:
        """Make one request and judge what comes back."""
        profile = msgspec.structs.replace(self.profile, token_url=self.simulator.token_url)
        sent = None if refresh is None else RefreshToken(refresh, self.clock.wall())
        async with HttpClient(self.clock) as http:
            settings = client(self.simulator.provider.config, key, **changes)
            grant = open_grant(settings, profile, http)
            try:
                answer = await grant.call(sent, Open(), send_timeout=20)
            except NoAnswer as error:
                return outcomes.judge_failure(error, profile)
        return outcomes.judge(answer, profile, sent=sent, previous=None)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run a daemon on virtual time; what speaks HTTP has a real clock."""
    if "days" in request.fixturenames:
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio"


# Over HTTP: each side understands the other.


@refreshed
async def test_a_refresh_is_asked_for_and_understood(name: str) -> None:
    """The request has the provider's shape, and of its answer every part is understood."""
    lives = {} if providers.load(name).zero_means_never else {"access_ttl": OTHER_TTL}
    lives |= {"announce_refresh_expiry": True, "refresh_ttl": 86400.0}
    caller = Caller(name, rotation=ProviderRotation.ALWAYS, **lives)
    with caller.simulator.serve():
        seed = consent(caller.simulator)
        outcome = await caller.call(seed)

        assert outcome.outcome is OutcomeClass.SUCCESS, outcome
        assert outcome.access is not None
        assert caller.simulator.provider.is_live(outcome.access.value)
        assert set((outcome.access.scope or "").split()) == set(SCOPE.split())
    if caller.profile.zero_means_never:
        assert outcome.access.expiry_source is ExpirySource.NEVER
        return
    assert outcome.access.ttl == pytest.approx(expected_ttl(caller.profile), abs=30)
    if caller.profile.grant is GrantType.REFRESH_TOKEN:
        assert outcome.refresh is not None
        assert outcome.refresh.value != seed
        assert outcome.refresh.expires_at == pytest.approx(caller.clock.wall() + 86400, abs=60)


def expected_ttl(profile: Profile) -> float:
    """Tell how long an access token is taken to live."""
    if profile.answer.expires_kind is not ExpiryKind.ABSENT:
        return OTHER_TTL
    return profile.default_ttl or outcomes.ASSUMED_TTL


@refreshed
async def test_a_wrong_secret_is_a_misconfiguration(name: str) -> None:
    """The provider says so in its way, and the refresh token isn't used."""
    caller = Caller(name)
    with caller.simulator.serve():
        seed = consent(caller.simulator)
        outcome = await caller.call(seed, secret="sim-cs-wrong-0123456789abcdef")

    assert outcome.outcome is OutcomeClass.MISCONFIGURED, outcome
    assert caller.simulator.provider.uses(seed) == 0


@refreshed
async def test_a_refused_token_is_looked_into(name: str) -> None:
    """What an unknown refresh token gets is a suspicion, or a misconfiguration where nobody told us; never death."""
    caller = Caller(name)
    with caller.simulator.serve():
        consent(caller.simulator)
        outcome = await caller.call("sim-rt-unknown-0123456789abcdef")

    told = OutcomeClass.MISCONFIGURED if name in UNTELLABLE else OutcomeClass.SUSPECT
    assert outcome.outcome is told, outcome


RULES = [(name, number) for name in REFRESHED for number in range(len(providers.load(name).errors))]


@pytest.mark.parametrize(("name", "number"), RULES)
async def test_every_error_is_understood(name: str, number: int) -> None:
    """Each error that a profile knows of comes over HTTP in the provider's shape, and is what the profile says."""
    caller = Caller(name)
    rule = caller.profile.errors[number]
    with caller.simulator.serve():
        seed = consent(caller.simulator)
        caller.simulator.provider.add_fault(shapes.fault(caller.profile, rule))
        outcome = await caller.call(seed)

    assert (outcome.outcome, outcome.min_delay) == (rule.outcome, rule.min_delay), outcome


@signed
async def test_an_assertion_is_taken_and_its_answer_understood(name: str, keys: tuple[Key, Key]) -> None:
    """Without a refresh token, the client's signature is what the provider verifies."""
    own, _ = keys
    caller = Caller(name, client_public_key=own.public, access_ttl=OTHER_TTL)
    with caller.simulator.serve():
        outcome = await caller.call(None, own.file)

        assert outcome.outcome is OutcomeClass.SUCCESS, outcome
        assert outcome.access is not None
        assert caller.simulator.provider.is_live(outcome.access.value)
    assert outcome.refresh is None
    assert outcome.access.ttl == pytest.approx(expected_ttl(caller.profile), abs=30)


@signed
async def test_a_wrong_signature_is_a_misconfiguration(name: str, keys: tuple[Key, Key]) -> None:
    """There is nothing that could have died."""
    own, other = keys
    caller = Caller(name, client_public_key=own.public)
    with caller.simulator.serve():
        outcome = await caller.call(None, other.file)

    assert outcome.outcome is OutcomeClass.MISCONFIGURED, outcome


# For days: the daemon does what the profile says.


class Days:
    """A daemon with the real grant, and the provider that it calls."""

    def __init__(self, name: str, directory: Path, key: Key) -> None:
        profile = known(name, "https://provider.example/token")
        is_signed = profile.grant.is_signed
        self.profile = profile
        self.house = House(directory)
        self.provider = self.house.provider
        self.provider.reconfigure(
            **_members(played(profile, client_public_key=key.public if is_signed else None))
        )
        self.http = Loopback(self.provider, self.house.clock)
        self.seed = None if is_signed else consent(self.house)
        settings = client(self.provider.config, key.file if is_signed else None)
        grant: Grant = open_grant(settings, profile, self.http)
        self.daemon: Daemon = self.house.daemon(profile=profile, seed=self.seed, grant=grant)

    @property
    def calls(self) -> list[float]:
        """When the provider was called."""
        return self.http.calls

    @property
    def serving(self) -> str:
        """The access token that applications read now."""
        return self.daemon.shelf.publications[-1].access.value

    async def run(self, seconds: float) -> None:
        """Let it live for so long."""
        await self.daemon.run(seconds)


def _members(config: ProviderConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ProviderConfig.__slots__}


Start = Callable[[str], Days]


@pytest.fixture
def days(tmp_path: Path, keys: tuple[Key, Key]) -> Start:
    """Start a daemon for a profile."""
    return lambda name: Days(name, tmp_path, keys[0])


@mortal
async def test_days_of_refreshes(name: str, days: Start) -> None:
    """From the seed on there is always a living token to read, and no refresh token is used after its replacement."""
    run = days(name)
    for _ in range(6):
        await run.run(TTL)
        assert run.daemon.state() is GrantState.OK
        assert run.provider.is_live(run.serving)

    record = await run.house.store.record()
    assert record.generation >= 6
    assert run.provider.replayed() == []
    if run.profile.rotation is Rotation.NEVER and run.seed:
        assert record.refresh is not None
        assert record.refresh.value == run.seed
    elif run.profile.rotation is Rotation.ALWAYS:
        assert run.provider.reused() == []
    spacing = [later - earlier for earlier, later in pairwise(run.calls)]
    assert min(spacing) >= (run.profile.min_interval or 0)


async def test_days_of_a_token_that_never_ends(days: Start) -> None:
    """Where `expires_in: 0` means never, one answer is enough."""
    run = days("mailchimp")
    await run.run(3 * 86400.0)

    assert run.daemon.state() is GrantState.OK
    assert len(run.calls) == 1
    assert run.provider.is_live(run.serving)


@mortal
async def test_days_with_throttling(name: str, days: Start) -> None:
    """Being asked to wait is no worry: the provider is left alone for as long as it wants, then all is well."""
    run = days(name)
    await run.run(60)
    rule = next((rule for rule in run.profile.errors if rule.outcome is OutcomeClass.TRANSIENT), None)
    told = faults.status(429, retry_after=90) if rule is None else shapes.fault(run.profile, rule)
    run.provider.add_fault(told)
    await run.run(2 * TTL)

    throttled, after = run.calls[1:3]
    assert after - throttled >= (90 if rule is None else rule.min_delay or 1)
    assert run.daemon.state() is GrantState.OK
    assert run.provider.is_live(run.serving)
    assert run.provider.replayed() == []


@mortal
async def test_days_with_passing_trouble(name: str, days: Start) -> None:
    """A provider that is down for a while is asked until it is back, and nobody notices."""
    run = days(name)
    await run.run(60)
    run.provider.add_fault(faults.status(503, times=3))
    await run.run(2 * TTL)

    assert run.daemon.state() is GrantState.OK
    assert run.provider.is_live(run.serving)
    assert run.provider.replayed() == []


@mortal
async def test_days_with_a_lost_answer(name: str, days: Start) -> None:
    """What is lost is asked for again at once where the provider forgives that, and as late as possible elsewhere."""
    run = days(name)
    await run.run(60)
    record = await run.house.store.record()
    assert record.access is not None
    # Only rotation makes a lost answer matter: where it happens now and then, let it be now.
    run.provider.reconfigure(rotate_every=1)
    run.provider.add_fault(faults.reset(processed=True))
    await run.run(TTL + 300)

    lost, again = run.calls[1:3]
    if run.profile.in_doubt is InDoubt.NO_REPLAY:
        # Its answer is gone, and with it the only refresh token that was good.
        expires_at = record.access.expires_at or 0
        assert expires_at - 60 <= again <= expires_at + 60
        assert run.daemon.state() is GrantState.DEAD
    else:
        assert again - lost <= 60
        assert run.daemon.state() is GrantState.OK
        assert run.provider.is_live(run.serving)
        assert not any(family.killed for family in run.provider.report().families)


@mortal
async def test_days_until_death(name: str, days: Start) -> None:
    """A grant that was ended is found dead, and nobody is asked any more; but never by an error that nobody knows."""
    run = days(name)
    await run.run(60)
    run.provider.kill()
    if run.profile.grant.is_signed:
        # There is nothing to kill: a refusal can only be about the client.
        run.provider.add_fault(faults.error(400, "invalid_grant", times=None))
    await run.run(TTL + 300)

    if name in UNTELLABLE or run.profile.grant.is_signed:
        assert run.daemon.state() is GrantState.MISCONFIGURED
        return
    assert run.daemon.state() is GrantState.DEAD
    calls = len(run.calls)
    await run.run(900)
    assert len(run.calls) == calls
