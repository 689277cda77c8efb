"""What is done while no daemon runs: under its lock, and with its engine.

A daemon that is started meanwhile is asked instead. Each deed has a house of its own, for its token alone; those of
one process share the lock, so that no token waits for another one's provider.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from sidecar import app, records
from sidecar.app import control
from sidecar.errors import (
    ConfigError,
    EscrowError,
    InstanceRunning,
    SidecarError,
    StoreError,
    TemporarilyUnavailable,
)
from sidecar.escrow import SUFFIX, Escrow
from sidecar.seal import open_sealer
from sidecar.server.wire import RefreshReply, RevokeReply, SeedReply, SeedRequest
from sidecar.state_dir import SharedStateDir
from sidecar.tokens import REFRESH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.app import House
    from sidecar.config import Loaded
    from sidecar.renewer import Renewer
    from sidecar.tokens import Record, Turn

STORE_PATIENCE = 120.0
"""Seconds for which a consent is held on to while the store doesn't take it."""
MOST = 32
"""Calls at once, and those that wait for one of the same token. Consents are not counted."""
LOOK = 5.0
"""Seconds between two looks for what somebody left in escrow."""
RETRY = 5.0
"""Seconds between two tries to bring that into the store. The lock is free meanwhile: a daemon does it better."""

Reply = TypeVar("Reply")


class Deputy:
    """Acts for one configuration; deeds of any number of tokens may be under way at once."""

    def __init__(self, loaded: Loaded, *, publishes: bool = True) -> None:
        """Open nothing yet. `publishes=False` leaves out outputs, hooks and seeds, which are for the daemons."""
        self._loaded = loaded
        self._settings = loaded.settings
        self._publishes = publishes
        self._state = SharedStateDir(partial(app.own_state_dir, loaded.settings))
        self._calls: dict[str, _Call] = {}
        self._passed_over: set[Path] = set()
        """What was found in escrow and is none of ours, or can't be opened: it was told of."""

    async def refresh(self, name: str, rejected: str | None, tell: Callable[[str], None]) -> RefreshReply:
        """Refresh one token here. Of several callers one calls the provider, and the others find its answer.

        `rejected`: fingerprint of the access token that was refused; None: the present one. `tell` hears what takes
        long.
        """
        async with self._call(name, "refresh", tell):
            known = await self._record(name)
            refused = _present(known) if rejected is None else rejected
            work = partial(self._refresh, name, refused, known, tell)
            ask = partial(control(self._settings).refresh, name, rejected=refused)
            return await app.in_turn(work, partial(anyio.to_thread.run_sync, ask), tell)

    async def seed(self, name: str, request: SeedRequest, tell: Callable[[str], None]) -> SeedReply:
        """Start a new lineage in the store; the daemon finds it when it starts, or at its next look.

        It is one compare-and-set, for which nothing that is under way here has to be over.
        """

        async def work() -> SeedReply:
            async with self._house(name) as house:
                return await house.engine.seed(name, request)

        ask = partial(control(self._settings).seed, name, request)
        return await app.in_turn(work, partial(anyio.to_thread.run_sync, ask), tell)

    async def revoke(self, name: str, tell: Callable[[str], None]) -> RevokeReply:
        """End a grant at the provider, and write that into the store."""

        async def work() -> RevokeReply:
            async with self._house(name) as house:
                return await house.engine.revoke(name)

        async with self._call(name, "revocation", tell):
            ask = partial(control(self._settings).revoke, name)
            return await app.in_turn(work, partial(anyio.to_thread.run_sync, ask), tell)

    async def recover(self, stopping: anyio.Event, tell: Callable[[str], None]) -> None:
        """Bring into the store what was caught here and did not get there, at once and whenever something is left.

        Where somebody else holds `state_dir`, it is theirs: a daemon does the same. Once `stopping` is set it returns
        when nothing is left to be brought. `tell` hears what came of it.
        """
        left: dict[str, SidecarError] = {}
        while True:
            known, left = left, await self._recover(tell)
            for name, error in left.items():
                if str(error) != str(known.get(name)):
                    tell(
                        f"{name}: what was caught here before is not in the store yet, and tried until it is: {error}"
                    )
            if not stopping.is_set():
                with anyio.move_on_after(RETRY if left else LOOK):
                    await stopping.wait()
            elif any(isinstance(error, StoreError) for error in left.values()):
                await anyio.sleep(RETRY)
            else:
                return

    async def _recover(self, tell: Callable[[str], None]) -> dict[str, SidecarError]:
        """Try once; returns of which tokens something is left, and why."""
        left: dict[str, SidecarError] = {}
        with suppress(InstanceRunning):
            try:
                names = self._found(tell)
            except (EscrowError, ConfigError) as error:
                return {"escrow": error}
            for name in names:
                try:
                    if await self._bring_home(name):
                        tell(f"{name}: what was caught here before is in the store now")
                except InstanceRunning:
                    raise
                except SidecarError as error:
                    left[name] = error
        return left

    def _found(self, tell: Callable[[str], None]) -> list[str]:
        """Name the tokens of which something is in escrow, and no deed of ours is under way."""
        # Without the lock nothing is read: what is there may be written at this moment.
        if not self._in_escrow():
            return []
        with self._state as state:
            escrow = Escrow(state.escrow, open_sealer(self._settings.store.encryption_keys))
            names = {entry.key: self._settings.name_of(entry.key) for entry in escrow.entries()}
            if not any(names.values()):
                strays = [
                    f"an answer for {key} is kept here, but no such token is configured" for key in names
                ]
                for reason in (*escrow.locked(), *strays):
                    tell(reason)
                self._passed_over |= self._in_escrow()
        return [name for name in names.values() if name and name not in self._calls]

    def _in_escrow(self) -> set[Path]:
        return {*(self._settings.state_dir / "escrow").glob(f"*{SUFFIX}")} - self._passed_over

    async def _bring_home(self, name: str) -> bool:
        async with self._call(name, "recovery", _nobody), self._house(name) as house:
            await house.engine.start(whole=False)
            [renewer] = house.engine
            owed = renewer.owes
            with anyio.CancelScope(shield=True):
                await renewer.settle()
        return owed

    # Its parts

    @asynccontextmanager
    async def _call(self, name: str, what: str, tell: Callable[[str], None]) -> AsyncIterator[None]:
        """Let one call of a token be under way at a time: what it left in escrow would look like a predecessor's.

        Raises `TemporarilyUnavailable` where too much is under way.
        """
        while (call := self._calls.get(name)) is not None:
            under_way = f"{name}: a {call.what} is under way since {call.since}"
            if call.waiting:
                raise TemporarilyUnavailable(
                    f"{under_way}, and something else waits for its end; try again later"
                )
            tell(f"{under_way}; waiting for its end")
            call.waiting = True
            await call.over.wait()
        if len(self._calls) >= MOST:
            raise TemporarilyUnavailable(f"{MOST} calls to providers are under way; try again later")
        self._calls[name] = call = _Call(what)
        try:
            yield
        finally:
            del self._calls[name]
            call.over.set()

    @asynccontextmanager
    async def _house(self, name: str) -> AsyncIterator[House]:
        """Put everything together for one token. Raises `SidecarError`."""
        settings = self._settings.only(name)
        if not self._publishes:
            token = replace(settings.tokens[name], outputs=(), after_refresh=(), seed=None)
            settings = replace(settings, tokens={name: token})
        alone = replace(self._loaded, settings=settings, warnings=())
        async with app.open_house(alone, state_dir=self._state) as house:
            yield house

    async def _record(self, name: str) -> Record | None:
        if self._settings.store.scheme == "memory":
            return None
        async with records.open_existing(self._settings) as store:
            held = await store.load(self._settings.key_of(name)) if store is not None else None
        return held.record if held is not None else None

    async def _refresh(
        self, name: str, refused: str, known: Record | None, tell: Callable[[str], None]
    ) -> RefreshReply:
        async with self._house(name) as house:
            await house.engine.start(whole=False)
            turned, renewing = house.ended_turns, anyio.CancelScope()
            # Out of the tasks' block errors come as a group.
            reply: RefreshReply | SidecarError
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(house.renew, renewing)
                try:
                    await turned.wait()
                    [renewer] = house.engine
                    reply = await _outcome(house, renewer, refused, known)
                    if renewer.unpersisted:
                        tell("the store does not take the new refresh token yet; trying until it does")
                    await house.settle(renewing)
                except SidecarError as error:
                    reply = error
                finally:
                    renewing.cancel()
        if isinstance(reply, SidecarError):
            raise reply
        return reply


class _Call:
    """What is under way for one token."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.since = datetime.now(UTC).strftime("%H:%M:%S UTC")
        self.over = anyio.Event()
        self.waiting = False


async def insistently(plant: Callable[[], Awaitable[SeedReply]], tell: Callable[[str], None]) -> SeedReply:
    """Try until it is stored: a store that is away for a moment must not cost a human's consent."""
    until, delay = time.monotonic() + STORE_PATIENCE, 0.5
    while True:
        try:
            return await plant()
        except SidecarError as error:
            if error.exit_code != TemporarilyUnavailable.exit_code or time.monotonic() > until:
                raise
            if delay < 1:
                tell(f"{error}; the consent is held on to, and stored as soon as that is over")
        await anyio.sleep(delay)
        delay = min(delay * 2, 5.0)


async def _outcome(house: House, renewer: Renewer, refused: str, known: Record | None) -> RefreshReply:
    """Say what the first turn came to; call the provider only if that turn did not."""
    name, record = renewer.setup.name, renewer.record
    if record is not None and record.access is not None and record.access.fingerprint != refused:
        called = _called(known, record)
        done = "refreshed to" if called else "replaced already: the present token is of"
        return RefreshReply(
            refreshed=called,
            message=f"{name} was {done} generation {record.generation}",
            fingerprint=record.access.fingerprint,
            expires_at=record.access.expires_at,
        )
    if record is None or _called(known, record):
        raise await house.engine.no_token(renewer)
    return await house.engine.refresh(name, refused)


def _called(before: Record | None, after: Record) -> bool:
    """Tell whether the provider was called between two looks at a record."""
    return _calls(after)[-1:] != _calls(before)[-1:]


def _calls(record: Record | None) -> list[Turn]:
    return [turn for turn in record.history if turn.what == REFRESH] if record is not None else []


def _present(record: Record | None) -> str:
    return record.access.fingerprint if record is not None and record.access is not None else ""


def _nobody(_reason: str) -> None:
    """Nobody is told."""
