"""What a daemon keeps going for its configuration, and what others may ask of it.

The engine turns settings into renewers, changes exactly those whose settings changed when the configuration is
read again, and answers the control socket. It starts no server and reads no signal, so that commands can use it
without a daemon.
"""

from __future__ import annotations

import math
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from sidecar import config, contents
from sidecar.enrol import revocation
from sidecar.enrol.provider import Provider
from sidecar.errors import (
    ConfigError,
    Conflict,
    HumanNeeded,
    SidecarError,
    TemporarilyUnavailable,
    UsageError,
)
from sidecar.events import ConfigLoaded, TokenForgotten, TurnEnded, Warned
from sidecar.grants import open_grant
from sidecar.grants.discovery import Issuers
from sidecar.hooks import open_hook
from sidecar.outputs import open_output, open_remote_output
from sidecar.renewer import Renewer
from sidecar.schedule import Policy
from sidecar.seeds import open_seed
from sidecar.server.wire import (
    LOGIN,
    RefreshReply,
    ReloadReply,
    RevokeReply,
    SeedReply,
    SeedRequest,
    UnknownToken,
)
from sidecar.setup import Setup, Surroundings
from sidecar.tokens import GrantState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from sidecar.board import Board
    from sidecar.clients.http import HttpClient
    from sidecar.clients.shared import SharedClients
    from sidecar.config import Settings
    from sidecar.courier import Courier
    from sidecar.events import TokenView
    from sidecar.intake import Planting
    from sidecar.scheduler import Scheduler
    from sidecar.tokens import AccessToken, Record

FIXED = (
    *(
        "namespace",
        "state_dir",
        "store.url_file",
        "store.identity",
        "store.encryption_keys",
        "store.require_encryption",
        "server",
        "control",
        "log",
        "max_workers",
    ),
    "allow_insecure_http",
)
"""What a running daemon cannot change."""

PLANT_RACES = 5

_Result = TypeVar("_Result")


def make_setup(
    name: str,
    settings: Settings,
    around: Surroundings,
    http: HttpClient,
    issuers: Issuers,
    clients: SharedClients,
) -> Setup:
    """Put one token's adapters together. Raises `ConfigError`."""
    token, profile = settings.tokens[name], settings.profiles[name]
    grant = open_grant(token, profile, http, issuers, clients)
    grant.tell = lambda reason: around.emit(Warned("client", reason, name))
    near = partial(open_output, state_dir=settings.state_dir, clock=around.clock)
    far = partial(open_remote_output, state_dir=settings.state_dir, clock=around.clock, clients=clients)
    hook = partial(
        open_hook,
        token=name,
        files=[str(target.file) for target in token.outputs if target.file],
        namespace=settings.namespace,
        state_dir=settings.state_dir,
        clock=around.clock,
        http=http,
        clients=clients,
    )
    seed = partial(open_seed, clock=around.clock, clients=clients, living=profile.lives_by_itself)
    return Setup(
        name=name,
        key=f"{settings.namespace}/{name}",
        provider=settings.provider_names[name],
        profile=profile,
        policy=Policy(
            min_validity=token.min_validity,
            refresh_at=token.refresh_at,
            min_interval=token.min_interval,
            lease=token.lease,
            request_timeout=token.request_timeout,
        ),
        grant=grant,
        outputs=tuple(near(target) for target in token.outputs if target.file),
        remote_outputs=tuple(far(target) for target in token.outputs if not target.file),
        hooks=tuple(map(hook, token.after_refresh)),
        seed=seed(token.seed) if token.seed else None,
        scopes=token.scopes,
        required=token.required,
        on_dead=token.on_dead.value,
        dead_grace=token.dead_grace,
        refresh_token_ttl=token.refresh_token_ttl,
        refresh_without_store=token.refresh_without_store,
    )


class Engine:
    """All renewers of one configuration."""

    def __init__(
        self,
        settings: Settings,
        around: Surroundings,
        *,
        http: HttpClient,
        clients: SharedClients,
        scheduler: Scheduler,
        board: Board,
        environ: Mapping[str, str],
    ) -> None:
        """Put every token together. Raises `ConfigError`."""
        self.settings = settings
        self._around = around
        self._http = http
        self._clients = clients
        self._scheduler = scheduler
        self._board = board
        self._environ = environ
        self.reload_wanted = anyio.Event()
        self.describe: Callable[[], Awaitable[dict[str, Any]]] | None = None
        """Builds the status document; set by whoever knows the process."""
        self._issuers = Issuers(http, settings.state_dir, around.clock)
        self._renewers = {name: Renewer(self._setup(name, settings), around) for name in settings.tokens}
        self._retired: dict[str, Renewer] = {}
        """Of tokens that left the configuration: one that comes back may have a call or a commit under way."""

    async def start(self) -> None:
        """Take over what a predecessor left in escrow, and give every token its first turn."""
        renewers = {renewer.setup.key: renewer for renewer in self._renewers.values()}
        for entry in self._around.escrow.entries():
            if entry.key in renewers:
                renewers[entry.key].recover(entry)
            else:
                reason = f"an answer for {entry.key} is kept here, but no such token is configured"
                self._around.emit(Warned("escrow", reason))
        for reason in self._around.escrow.locked():
            self._around.emit(Warned("escrow", reason))
        for name, renewer in self._renewers.items():
            await self._take_in(name, renewer)

    async def _take_in(self, name: str, renewer: Renewer) -> None:
        # Seen before its first turn: probes must not pass for want of anything to judge.
        self._around.emit(TurnEnded(await renewer.look(), "starting", noteworthy=False))
        self._scheduler.add(name, renewer)
        renewer.courier.rouse = partial(self._rouse, f"{name}:courier", renewer.courier)
        if renewer.courier.has_work:
            renewer.courier.rouse()

    def _rouse(self, name: str, courier: Courier) -> None:
        # A colon is in no token's name.
        if self._scheduler.wake(name) is None:
            self._scheduler.add(name, courier)

    async def finish(self, *, patiently: bool) -> None:
        """Deliver what has not been delivered yet, in one attempt, at the daemon's end.

        Patiently: with as much time as each delivery may take; else in seconds, since somebody waits for the end.
        """
        async with anyio.create_task_group() as tasks:
            for renewer in self._renewers.values():
                finish = renewer.courier.finish
                tasks.start_soon(partial(finish, math.inf) if patiently else finish)

    async def rest(self) -> None:
        """Wait for the end of deliveries that are under way."""
        for renewer in self._renewers.values():
            await renewer.courier.rest()

    def __iter__(self) -> Iterator[Renewer]:
        """Go through the renewers."""
        return iter(self._renewers.values())

    async def read_back(self) -> list[TokenView]:
        """Return the view of every token, with its outputs as they are at this moment."""
        views = [await self._renewers[name].look() for name in sorted(self._renewers)]
        for view in views:
            self._board.put(view)
        return views

    def interests(self) -> dict[Path, Callable[[], None]]:
        """Name the files to be watched, and what to do when one has changed."""
        found: dict[Path, Callable[[], None]] = {}
        for name, token in self.settings.tokens.items():
            files = [
                *self._renewers[name].setup.grant.files,
                *(output.file for output in token.outputs if output.file),
            ]
            files += [token.seed.file] if token.seed and token.seed.file else []
            for path in files:
                found[path] = _both(found.get(path), self._waker(name))
        found[self.settings.path] = self.want_reload
        return found

    def want_reload(self) -> None:
        """Ask for the configuration to be read again."""
        self.reload_wanted.set()

    def _waker(self, name: str) -> Callable[[], None]:
        def wake() -> None:
            self._scheduler.wake(name)

        return wake

    # What the control socket asks

    async def status(self) -> dict[str, Any]:
        """Return the status document."""
        return await self.describe() if self.describe is not None else {}

    async def token(self, name: str) -> AccessToken:
        """Return a valid access token. Raises `HumanNeeded` or `TemporarilyUnavailable` where there is none."""
        renewer = self._renewer(name)
        access = renewer.record.access if renewer.record is not None else None
        if access is not None and access.seconds_left(self._around.clock.wall()) > 0:
            return access
        raise no_token(await renewer.look())

    async def refresh(self, name: str, rejected: str | None) -> RefreshReply:
        """Replace an access token that was refused (by default the present one), unless that has happened."""
        renewer = self._renewer(name)
        present = _present(renewer)
        refused = present if rejected is None else rejected
        if renewer.refuse(refused):
            turned = self._scheduler.wake(name)
            if turned is not None:
                await turned.wait()
        record = renewer.record
        if record is None or record.access is None or record.access.fingerprint == refused:
            raise no_token(await renewer.look())
        if refused != present:
            message = f"{name} was replaced already: {present} is the present token"
        else:
            message = f"{name} was refreshed to generation {record.generation}"
        return RefreshReply(
            refreshed=refused == present,
            message=message,
            fingerprint=record.access.fingerprint,
            expires_at=record.access.expires_at,
        )

    async def seed(self, name: str, request: SeedRequest) -> SeedReply:
        """Start a new lineage from a refresh token, and from the access token that came with it."""
        renewer = self._renewer(name)
        seeding = request.seeding

        async def plant() -> Planting:
            return await renewer.plant(
                seeding, origin=request.origin, force=request.force, since=request.since
            )

        done = await _raced(plant)
        self._scheduler.wake(name)
        return SeedReply(
            _told_of_planting(name, done, request.origin), seeding.fingerprint, done.lineage, done.aside
        )

    async def revoke(self, name: str) -> RevokeReply:
        """End a grant at the provider (RFC 7009), and write down that it is over.

        Raises `UsageError` where there is nothing to revoke or nowhere to do it, and what `revocation.revoke` raises.
        """
        renewer = self._renewer(name)
        settings, profile = self.settings.tokens[name], self.settings.profiles[name]
        provider = Provider(name, settings, profile, self._http, self._issuers)

        async def revoke() -> Record | None:
            if renewer.unpersisted:
                raise TemporarilyUnavailable(
                    f"{name}: the store lacks the newest refresh token yet; try again"
                )
            record = await renewer.reread()
            if record is None or record.refresh is None:
                raise UsageError(f"{name}: there is no refresh token in the store, so nothing to revoke")
            await revocation.revoke(provider, record)
            if await renewer.bury(record.refresh.fingerprint, reason="revoked by token-sidecar revoke"):
                return record
            raise Conflict  # it was replaced meanwhile, and the one that took its place may be alive

        record = await _raced(revoke)
        self._scheduler.wake(name)
        access = record.access if record is not None else None
        return RevokeReply(access.expires_at if access is not None else None)

    async def reload(self) -> ReloadReply:
        """Read the configuration again, and touch only what changed in it.

        Raises `ConfigError`, with the old configuration still in force.
        """
        try:
            loaded = config.load(self.settings.path, env=self._environ, also=contents.check)
            changed = await self._apply(loaded.settings)
        except ConfigError as error:
            self._around.emit(ConfigLoaded(accepted=False, problems=tuple(error.problems)))
            raise
        for warning in loaded.warnings:
            self._around.emit(Warned("configuration", warning))
        self._around.emit(ConfigLoaded(accepted=True, changed=changed))
        return ReloadReply(f"{len(changed)} tokens changed", changed)

    async def _apply(self, settings: Settings) -> tuple[str, ...]:
        fixed = dict.fromkeys(
            key.partition(".")[0]
            for key in FIXED
            if attrgetter(key)(settings) != attrgetter(key)(self.settings)
        )
        if fixed:
            raise ConfigError(
                [f"{settings.path}: {key}: changes only at a restart of the daemon" for key in fixed]
            )
        old, new = _by_token(self.settings), _by_token(settings)
        changed = {name for name in new if new[name] != old.get(name)}
        # Everything that can fail comes before anything is touched.
        setups = {name: self._setup(name, settings) for name in sorted(changed)}
        self.settings = settings
        for name, setup in setups.items():
            if name in self._renewers:
                self._renewers[name].reconfigure(setup)
                self._scheduler.wake(name)
            else:
                self._renewers[name] = self._revived(name, setup)
                await self._take_in(name, self._renewers[name])
        gone = old.keys() - new.keys()
        for name in gone:
            self._retire(name)
            self._retired[name] = self._renewers.pop(name)
            self._around.emit(TokenForgotten(name))
        return tuple(sorted(changed | gone))

    def _retire(self, name: str) -> None:
        # A turn of its own may still be under way, and must call for no more of the courier's.
        self._renewers[name].courier.rouse = _nothing
        self._scheduler.remove(name)
        self._scheduler.remove(f"{name}:courier")

    def _revived(self, name: str, setup: Setup) -> Renewer:
        renewer = self._retired.pop(name, None)
        if renewer is not None:
            renewer.reconfigure(setup)
            return renewer
        renewer = Renewer(setup, self._around)
        for entry in self._around.escrow.entries():
            if entry.key == setup.key:
                renewer.recover(entry)
        return renewer

    def _setup(self, name: str, settings: Settings) -> Setup:
        return make_setup(name, settings, self._around, self._http, self._issuers, self._clients)

    def _renewer(self, name: str) -> Renewer:
        renewer = self._renewers.get(name)
        if renewer is None:
            known = ", ".join(sorted(self._renewers)) or "none"
            raise UnknownToken(f"no token is called {name!r}; the configuration has: {known}")
        return renewer


async def _raced(write: Callable[[], Awaitable[_Result]]) -> _Result:
    """Write what others may write at the same time, anew whenever they were faster."""
    for _ in range(PLANT_RACES):
        try:
            return await write()
        except Conflict:
            continue
    raise TemporarilyUnavailable("the record is changed by others all the time; try again")


def _told_of_planting(name: str, done: Planting, origin: str) -> str:
    """Say in one sentence what a seed or a login came to."""
    if done.aside:
        return (
            f"{name} was given another consent while this one was under way: that one is in force, and this one is "
            "kept beside it, should it be refused"
        )
    return f"{name} starts anew from this {'consent' if origin == LOGIN else 'refresh token'}"


def _both(first: Callable[[], None] | None, second: Callable[[], None]) -> Callable[[], None]:
    """Call both: tokens may share a client file."""
    if first is None:
        return second

    def both() -> None:
        first()
        second()

    return both


def _nothing() -> None:
    """There is nobody to be roused any more."""


def _by_token(settings: Settings) -> dict[str, Any]:
    return {
        name: (token, settings.profiles[name], settings.provider_names[name])
        for name, token in settings.tokens.items()
    }


def _present(renewer: Renewer) -> str:
    record = renewer.record
    return record.access.fingerprint if record is not None and record.access is not None else ""


def no_token(view: TokenView) -> SidecarError:
    """Say why there is no (new) access token, as the error whose exit code fits."""
    told = f"{view.token}: the grant is {view.grant_state.value}" + (
        f" ({view.reason})" if view.reason else ""
    )
    if view.remedy:
        told = f"{told}; {view.remedy}"
    match view.grant_state:
        case GrantState.DEAD | GrantState.UNSEEDED:
            return HumanNeeded(told)
        case GrantState.MISCONFIGURED:
            return SidecarError(told)
        case _:
            return TemporarilyUnavailable(told)
