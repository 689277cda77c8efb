"""What the console does for people: it reads records from the store, and acts through the daemon or in its place."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog

from sidecar import records
from sidecar.app import control
from sidecar.deputy import insistently
from sidecar.enrol.code import Authorization
from sidecar.enrol.provider import Provider
from sidecar.errors import RecordUnreadable, SidecarError, UnknownToken, Unlisted, UsageError
from sidecar.events import TokenView
from sidecar.grants.discovery import Issuers
from sidecar.ports import Held, SupportsMany
from sidecar.server.client import NotRunning
from sidecar.server.wire import LOGIN, SeedRequest
from sidecar.standing import missing_scopes
from sidecar.tokens import Record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator

    from sidecar.clients.http import HttpClient
    from sidecar.clock import Clock
    from sidecar.config import Loaded
    from sidecar.config.settings import Resolved
    from sidecar.deputy import Deputy
    from sidecar.ports import Seeding, Store
    from sidecar.server.wire import RefreshReply, RevokeReply, SeedReply

AT_ONCE = 500
"""Records in one question: some megabytes."""
LOOK = 5.0
"""Seconds that a page waits for what the daemon says; without it, it shows what the records say."""
LOADS = 16
"""Questions at the same time, where each is for one record."""

Reply = TypeVar("Reply")

_log = structlog.get_logger("sidecar.console")


class Agent:
    """Reads and acts for one configuration."""

    def __init__(self, loaded: Loaded, deputy: Deputy, http: HttpClient, clock: Clock) -> None:
        """`deputy` acts where no daemon runs; `http` is open for as long as this is used."""
        self.settings = loaded.settings
        self.now = clock.wall
        self._http = http
        self._issuers = Issuers(http, loaded.settings.state_dir, clock)
        self._deputy = deputy
        # Threads of their own: who waits for a slow provider keeps nobody from a page, and no consent from its store.
        self._looks, self._seeds = anyio.CapacityLimiter(8), anyio.CapacityLimiter(16)

    # Reading

    def token(self, name: str) -> Resolved:
        """Return what the configuration says of a token. Raises `UnknownToken`."""
        return self.settings.resolve(name)

    async def everything(self) -> tuple[dict[str, Record | None], dict[str, str]]:
        """Read the records of all plain tokens and of all accounts that have one. Raises `StoreError`.

        The second part says of which token the record can't be read, and why: one must not hide the others.
        """
        settings = self.settings
        async with records.open_existing(self.settings) as store:
            if store is None:
                return dict.fromkeys(settings.tokens), {}
            names = [*settings.tokens]
            for of in settings.sets:
                # A right that is lacking hides the accounts; each is found by its name all the same.
                with suppress(Unlisted):
                    found = (settings.name_of(key) for key in await store.keys(settings.prefix_of(of)))
                    names += [name for name in found if name is not None and name.startswith(f"{of}/")]
            keys = {name: settings.key_of(name) for name in names}
            held = await _loaded(store, keys.values())
        told = {name: held.get(key) for name, key in keys.items()}
        unreadable = {name: str(one) for name, one in told.items() if isinstance(one, RecordUnreadable)}
        return {name: one.record if isinstance(one, Held) else None for name, one in told.items()}, unreadable

    async def records(self, names: Iterable[str]) -> dict[str, Record | None]:
        """Read records from the store; None where there is none yet. Raises `StoreError`."""
        keys = {name: self.settings.resolve(name).key for name in names}
        async with records.open_existing(self.settings) as store:
            held = await _loaded(store, keys.values()) if store is not None else {}
        return {name: _readable(held.get(key)) for name, key in keys.items()}

    async def record(self, name: str) -> Record | None:
        """Read one record. Raises `StoreError`."""
        return (await self.records([name]))[name]

    async def live(self, name: str = "") -> dict[str, TokenView | None]:
        """Return what the daemon on this `state_dir` says of its tokens; empty where none runs, or answers us.

        None is what can't be understood, as of a daemon of another version.

        Of large sets it tells those accounts alone that have something to tell; `name`: of this one in any case.
        """
        document: dict[str, Any] = {}
        ask = partial(control(self.settings).status, name)
        with suppress(SidecarError), anyio.move_on_after(LOOK):
            document = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._looks)
        told = {token: _understood(one) for token, one in document.get("tokens", {}).items()}
        if None in told.values():
            _log.warning(
                "the daemon tells of its tokens in words that the console doesn't know; pages show what the records "
                "say: run both in the same version"
            )
        return told

    # Consents

    def own(self, of: str, user: str) -> str:
        """Name the token of a user's own account. Raises `UnknownToken` where users can't bring their own."""
        if of not in self.enrolling:
            raise UnknownToken(f"users can't connect accounts of their own to {of[:300]!r}")
        return self.member(of, user)

    def member(self, of: str, account: str) -> str:
        """Name the token of an account. Raises `UnknownToken`, and `ConfigError` for what can't be an account."""
        if of not in self.settings.sets:
            raise UnknownToken(f"no set of tokens is called {of[:300]!r}")
        return self.settings.resolve(f"{of}/{account}").name

    @property
    def enrolling(self) -> list[str]:
        """Name the sets that users may connect their own accounts to."""
        sets = self.settings.sets.items()
        return [name for name, one in sets if one.for_each is not None and one.for_each.enrolment]

    def provider_of(self, name: str) -> str:
        """Name a token's provider in the path of its redirect URI: each has its own (RFC 9700 §4.4.2).

        One that has no name is its token's, apart from those that have: a token may be called like another's provider.
        """
        found = self.token(name)
        return (
            found.provider if isinstance(found.settings.provider, str) else f"tokens/{found.of_set or name}"
        )

    async def authorization(self, name: str, redirect_uri: str, state: str) -> tuple[Authorization, str, str]:
        """Prepare a request for consent: itself, the provider's name, and the lineage that it is to replace.

        Raises `UsageError` where there is nothing to consent to, `StoreError` before a human is bothered for nothing,
        and what `Provider.locate` raises.
        """
        found = self.token(name)
        settings, profile = found.settings, found.profile
        if not profile.needs_refresh_token:
            raise UsageError(
                f"{name}: the grant {profile.grant} needs no human, so there is nothing to consent to"
            )
        record, live = await self.record(name), await self.live()
        if live and not found.of_set and name not in live:
            raise UsageError(
                f"{name}: the running daemon does not know this token yet; reload it first (SIGHUP)"
            )
        provider = Provider(name, settings, profile, self._http, self._issuers)
        await provider.locate("authorization_url")
        scopes = provider.scopes(record.granted if record is not None else ())
        authorization = Authorization(provider, redirect_uri=redirect_uri, scopes=scopes, state=state)
        return authorization, provider.title, record.lineage if record is not None else ""

    async def store(
        self, name: str, seeding: Seeding, asked: tuple[str, ...], since: str, tell: Callable[[str], None]
    ) -> tuple[SeedReply, str]:
        """Put a consent where it is safe, and say what came of it; `tell` hears why it takes long.

        Raises `SidecarError` once that has failed for `sidecar.deputy.STORE_PATIENCE`.
        """
        request = SeedRequest(seeding, origin=LOGIN, since=since)
        reply = await insistently(partial(self._seed, name, request, tell), tell)
        missing = missing_scopes(Record(lineage="", access=seeding.access), asked)
        lacks = f" Not granted, although asked for: {' '.join(missing)}." if missing else ""
        return reply, f"{reply.message}.{lacks}"

    async def _seed(self, name: str, request: SeedRequest, tell: Callable[[str], None]) -> SeedReply:
        return await self._done(
            partial(control(self.settings).seed, name, request),
            partial(self._deputy.seed, name, request, tell),
            self._seeds,
        )

    # The rest

    async def refresh(self, name: str, tell: Callable[[str], None]) -> RefreshReply:
        """Refresh now. Raises `SidecarError`."""
        return await self._done(
            partial(control(self.settings).refresh, name),
            partial(self._deputy.refresh, name, None, tell),
        )

    async def revoke(self, name: str, tell: Callable[[str], None]) -> RevokeReply:
        """End a grant at its provider. Raises `SidecarError`."""
        return await self._done(
            partial(control(self.settings).revoke, name),
            partial(self._deputy.revoke, name, tell),
        )

    async def _done(
        self,
        ask_daemon: Callable[[], Reply],
        do: Callable[[], Awaitable[Reply]],
        limiter: anyio.CapacityLimiter | None = None,
    ) -> Reply:
        try:
            return await anyio.to_thread.run_sync(ask_daemon, limiter=limiter)
        except NotRunning:
            return await do()


def _understood(told: Any) -> TokenView | None:
    try:
        return msgspec.convert(told, TokenView)
    except msgspec.ValidationError:
        return None


def _readable(held: Held | RecordUnreadable | None) -> Record | None:
    if isinstance(held, RecordUnreadable):
        raise held
    return held.record if held is not None else None


async def _loaded(store: Store, keys: Collection[str]) -> dict[str, Held | RecordUnreadable]:
    """Load what is there, as many at once as the store can: each question is a way there and back."""
    if isinstance(store, SupportsMany):
        found: dict[str, Held | RecordUnreadable] = {}
        left = iter(keys)
        while some := list(islice(left, AT_ONCE)):
            found |= await store.load_many(some)
        return found
    return await _loaded_singly(store, keys)


async def _loaded_singly(store: Store, keys: Collection[str]) -> dict[str, Held | RecordUnreadable]:
    found: dict[str, Held | RecordUnreadable] = {}
    limit = anyio.CapacityLimiter(LOADS)

    async def load(key: str) -> None:
        try:
            async with limit:
                held = await store.load(key)
        except RecordUnreadable as error:
            found[key] = error
        else:
            if held is not None:
                found[key] = held

    problem: SidecarError | None = None
    try:
        async with anyio.create_task_group() as tasks:
            for key in keys:
                tasks.start_soon(load, key)
    except* SidecarError as group:
        problem = next(_leaves(group))
    if problem is not None:
        raise problem
    return found


def _leaves(group: BaseExceptionGroup[SidecarError]) -> Iterator[SidecarError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
