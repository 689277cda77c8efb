"""What a daemon keeps going for its configuration, and what others may ask of it.

The engine turns settings into renewers, changes exactly those whose settings changed when the configuration is
read again, and answers the control socket. It starts no server and reads no signal, so that commands can use it
without a daemon.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio
import msgspec

from sidecar import config, contents, links, schedule
from sidecar.accounts import open_accounts
from sidecar.claimer import Claimer
from sidecar.config import members
from sidecar.enrol import revocation
from sidecar.enrol.provider import Provider
from sidecar.errors import (
    ConfigError,
    Conflict,
    HumanNeeded,
    SidecarError,
    TemporarilyUnavailable,
    UnknownToken,
    UsageError,
)
from sidecar.events import ConfigLoaded, TokenForgotten, TurnEnded, Warned
from sidecar.follower import Follower
from sidecar.grants import open_grant
from sidecar.grants.discovery import Issuers
from sidecar.hooks import open_hook
from sidecar.outputs import open_output, open_remote_output, sweep_all, withdraw_forgotten
from sidecar.pace import Line, Pace
from sidecar.ports import SupportsClaims, SupportsFollowing
from sidecar.renewer import Renewer
from sidecar.roster import Roster
from sidecar.schedule import Policy
from sidecar.seeds import open_seed
from sidecar.server.status import history_of
from sidecar.server.wire import (
    LOGIN,
    RefreshReply,
    ReloadReply,
    RevokeReply,
    SeedReply,
    SeedRequest,
)
from sidecar.setup import Setup, Surroundings
from sidecar.standing import consent
from sidecar.tokens import GrantState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sidecar.board import Board
    from sidecar.clients.http import HttpClient
    from sidecar.clients.shared import SharedClients
    from sidecar.config import Settings
    from sidecar.config.settings import TokenSettings
    from sidecar.courier import Courier
    from sidecar.escrow import Entry
    from sidecar.events import TokenView
    from sidecar.intake import Planting
    from sidecar.ports import Claimed, Grant
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
        "audit",
        "tracing",
        "console.url",
        "max_workers",
    ),
    "allow_insecure_http",
)
"""What a running daemon cannot change."""

PLANT_RACES = 5
YIELD_PATIENCE = 300.0
"""Seconds for which who asks for a refresh waits while another daemon is at it: as long as for a provider's answer."""
YIELD_LOOK = 1.0
COURIER = "\ncourier"
ROSTER = "\nroster"
CLAIMER = "\nclaimer"
FOLLOWER = "\nfollower"
"""Put behind a name, for what else takes turns. No account has a line's end in its name."""
ABSENCE = 60.0
"""Seconds for which a member's record may be missing from the store before it counts as lost: every daemon has asked
by then whether the account is gone."""

WITHOUT_STORE = 30.0
"""Seconds that it waits where nothing that the store holds is needed to call the provider."""
FIRST_LOOK = 600.0
"""Seconds that a member's first turn waits for its record to be read with many others at once: should that fail for so
long, each looks by itself."""

_Result = TypeVar("_Result")


def make_setup(  # noqa: PLR0913 - what two of them share comes from the set
    name: str,
    settings: Settings,
    around: Surroundings,
    http: HttpClient,
    issuers: Issuers,
    clients: SharedClients,
    *,
    grant: Grant | None = None,
    like: Setup | None = None,
) -> Setup:
    """Put one token's adapters together. Raises `ConfigError`.

    `grant`: one that it shares. `like`: another member of its set, with which it shares what is the same.
    """
    found = settings.resolve(name)
    token, profile = found.settings, found.profile
    if grant is None:
        grant = make_grant(name, settings, around, http, issuers, clients)
    policy, files = policy_of(token), [target for target in token.outputs if target.file]
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
        key=found.key,
        provider=found.provider,
        profile=profile,
        policy=like.policy if like is not None and like.policy == policy else policy,
        grant=grant,
        outputs=tuple(
            near(target, like=other)
            for target, other in zip(files, like.outputs if like else repeat(None), strict=False)
        ),
        remote_outputs=tuple(far(target) for target in token.outputs if not target.file),
        hooks=tuple(map(hook, token.after_refresh)),
        seed=seed(token.seed) if token.seed else None,
        scopes=token.scopes,
        required=token.required,
        on_dead=token.on_dead.value,
        dead_grace=token.dead_grace,
        refresh_token_ttl=token.refresh_token_ttl,
        refresh_without_store=token.refresh_without_store,
        page=links.page(settings.console.url, name),
        of_set=found.of_set,
    )


def policy_of(token: TokenSettings) -> Policy:
    """Say what the configuration says of a token's timing."""
    return Policy(
        min_validity=token.min_validity,
        refresh_at=token.refresh_at,
        min_interval=token.min_interval,
        lease=token.lease,
        request_timeout=token.request_timeout,
    )


def make_grant(
    name: str,
    settings: Settings,
    around: Surroundings,
    http: HttpClient,
    issuers: Issuers,
    clients: SharedClients,
) -> Grant:
    """Make the grant of a token, or the one that the members of a set share. Raises `ConfigError`."""
    found = settings.resolve(name)
    grant = open_grant(found.settings, found.profile, http, issuers, clients)
    grant.tell = lambda reason: around.emit(Warned("client", reason, found.of_set or name))
    return grant


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
        self.describe: Callable[[Sequence[TokenView] | None], Awaitable[dict[str, Any]]] | None = None
        """Builds the status document, of these tokens or of all; set by whoever knows the process."""
        self._issuers = Issuers(http, settings.state_dir, around.clock)
        self._renewers = {name: Renewer(self._setup(name, settings), around) for name in settings.tokens}
        self._sets = {of: _Set(settings.sets[of], self._roster(of, settings)) for of in settings.sets}
        self._retired: dict[str, Renewer] = {}
        """Of tokens that left the configuration: one that comes back may have a call or a commit under way."""
        self._paces: dict[tuple[str, float | None, int | None], Pace] = {}
        """By the host of the token endpoint, and what its profile allows."""
        self._rouse = self._give_courier_turn
        """One for all: each look at a method makes an object of its own."""
        self._left: dict[str, list[Entry]] | None = None
        """What predecessors left in escrow, by key: looked for once, since what is put there later is our own."""

    async def start(self, *, whole: bool = True) -> None:
        """Take over what a predecessor left in escrow, and give every token its first turn.

        `whole`: escrow is for these tokens alone, so that what is none of theirs is told of.
        """
        for entry in self._around.escrow.entries():
            name = self.settings.name_of(entry.key)
            if name is None and not whole:
                continue
            if name is None:
                reason = f"an answer for {entry.key} is kept here, but no such token is configured"
                self._around.emit(Warned("escrow", reason))
            elif name in self.settings.tokens:
                self._renewers[name].recover(entry)
            elif name not in self._renewers:
                # Whether or not this account is there any more: the answer has to get into the store.
                await self._welcome(name)
        for reason in self._around.escrow.locked() if whole else ():
            self._around.emit(Warned("escrow", reason))
        for name in self.settings.tokens:
            await self._take_in(name, self._renewers[name])
        for of in self._sets:
            self._begin(of)

    async def _take_in(self, name: str, renewer: Renewer) -> None:
        # Seen before its first turn: probes must not pass for want of anything to judge.
        self._around.emit(TurnEnded(await renewer.look(), "starting", noteworthy=False))
        setup = renewer.setup
        crowd = setup.followed and not renewer.owes and not self._sets[setup.of_set].settled
        patience = FIRST_LOOK if setup.profile.needs_refresh_token else WITHOUT_STORE
        self._scheduler.add(name, renewer, after=patience if crowd else 0.0)
        renewer.courier.rouse = self._rouse
        if renewer.courier.has_work:
            self._rouse(renewer.courier)

    def _give_courier_turn(self, courier: Courier) -> None:
        name = courier.token + COURIER
        if self._scheduler.wake(name) is None:
            self._scheduler.add(name, courier)

    async def finish(self, *, patiently: bool) -> None:
        """Deliver what has not been delivered yet, in one attempt, at the daemon's end.

        Patiently: with as much time as each delivery may take; else in seconds, since somebody waits for the end.
        """
        async with anyio.create_task_group() as tasks:
            for renewer in self._renewers.values():
                if renewer.courier.has_work:
                    finish = renewer.courier.finish
                    tasks.start_soon(partial(finish, math.inf) if patiently else finish)

    @property
    def settling(self) -> bool:
        """Whether somebody's first turn is still to come, or who the accounts are was not found out yet."""
        known = self._board.sets
        unheard = any(of not in known or not (known[of].listed_at or known[of].problem) for of in self._sets)
        return unheard or any(view.of_set and not view.next_wake for view in self._board)

    async def rest(self) -> None:
        """Wait for the end of deliveries that are under way."""
        for renewer in self._renewers.values():
            await renewer.courier.rest()

    def __iter__(self) -> Iterator[Renewer]:
        """Go through the renewers."""
        return iter(self._renewers.values())

    async def read_back(self) -> list[TokenView]:
        """Return the view of every token, with its outputs as they are at this moment."""
        for _, renewer in sorted(self._renewers.items()):
            # Of those who are told of together, each turn's own look is enough: there may be very many.
            if not renewer.setup.aggregated:
                self._board.put(await renewer.look())
        # A turn that was under way when its token left tells of it once more.
        return [view for view in self._board if view.token in self._renewers]

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
        for of in self._sets:
            client = self.settings.sets[of].client
            for path in client.files.values():
                found[path] = _both(found.get(path), partial(self._wake_refused, of))
        found[self.settings.path] = self.want_reload
        return found

    def want_reload(self) -> None:
        """Ask for the configuration to be read again."""
        self.reload_wanted.set()

    def _waker(self, name: str) -> Callable[[], None]:
        def wake() -> None:
            self._scheduler.wake(name)

        return wake

    def _wake_refused(self, of: str) -> None:
        """Have those members tried again whose client was refused: it may be another one now."""
        for account in self._sets[of].present:
            name = f"{of}{members.SLASH}{account}"
            record = self._renewers[name].record
            if record is None or record.backoff is not None:
                self._scheduler.wake(name)

    # The members of sets

    def present(self, of: str) -> set[str]:
        """See `Keeper.present`."""
        return self._sets[of].present

    async def admit(self, of: str, account: str) -> None:
        """See `Keeper.admit`."""
        name, found = f"{of}{members.SLASH}{account}", self._sets[of]
        if name in self._renewers:
            self._renewers[name].stay()
        else:
            # As one of many unless there is room for series of its own. It keeps its place for as long as it's there.
            alone = len(found.alone) < found.max_series
            setup = self._setup(name, self.settings, aggregated=not alone)
            if alone:
                found.alone.add(account)
            self._renewers[name] = self._revived(name, setup)
            await self._take_in(name, self._renewers[name])
        found.present.add(account)

    def dismiss(self, of: str, account: str) -> None:
        """See `Keeper.dismiss`."""
        name = f"{of}{members.SLASH}{account}"
        self._sets[of].present.discard(account)
        self._renewers[name].leave(partial(self._forget, name))
        self._scheduler.wake(name)

    def settled(self, of: str) -> None:
        """See `Keeper.settled`: files that an earlier run published for others than these are withdrawn."""
        self._sets[of].settled = True
        self._scheduler.wake(of + FOLLOWER)
        mine = {
            output.id for renewer in self if renewer.setup.of_set == of for output in renewer.setup.outputs
        }
        patterns = [output.file for output in self.settings.sets[of].outputs if output.file]

        def is_forgotten(path: Path) -> bool:
            return f"file:{path}" not in mine and any(
                path.parent == pattern.parent and members.may_meet(pattern.name, path.name)
                for pattern in patterns
            )

        for problem in withdraw_forgotten(self.settings.state_dir, is_forgotten):
            self._around.emit(Warned("output", problem, of))

    async def _welcome(self, name: str) -> Renewer:
        """Serve an account that did not come from its set's source, which may know of it a moment later."""
        found = self.settings.resolve(name)
        self._sets[found.of_set].roster.invite(found.account)
        await self.admit(found.of_set, found.account)
        return self._renewers[name]

    def _forget(self, name: str) -> None:
        of, _, account = name.partition(members.SLASH)
        if of in self._sets:
            self._sets[of].alone.discard(account)
        self._retire(name)
        del self._renewers[name]
        self._around.emit(TokenForgotten(name))

    def _begin(self, of: str) -> None:
        """Ask who the accounts of a set are from now on, and claim what is due of them where that can be done."""
        self._sets[of].roster.tell()
        self._scheduler.add(of + ROSTER, self._sets[of].roster)
        store, settings = self._around.store, self.settings
        if isinstance(store, SupportsClaims):
            claimer = Claimer(
                settings.prefix_of(of), store, self._around, self._hand, most=settings.max_workers
            )
            claimer.line, self._sets[of].claimer = self._sets[of].line, claimer
            self._direct(of, claimer)
            self._scheduler.add(of + CLAIMER, claimer)
        if isinstance(store, SupportsFollowing):
            prefix = settings.prefix_of(of)
            follower = Follower(
                of, prefix, store, self._around, partial(self._followed, of), self._scheduler.wake
            )
            follower.tidy = partial(self._tidy, of)
            self._scheduler.add(of + FOLLOWER, follower)

    def _direct(self, of: str, claimer: Claimer) -> None:
        """Have a set's claims made by what is configured now."""
        settings = self.settings
        claimer.pace = self._pace_of(of, settings)
        # The lease that a token gets whose life is not known yet: it's for all of them.
        claimer.lease = schedule.timing(policy_of(settings.sets[of]), settings.profiles[of], None).lease

    def _pace_of(self, of: str, settings: Settings) -> Pace:
        """Return the pace of a set's provider, which other sets may have as well."""
        profile = settings.profiles[of]
        place = urlsplit(profile.token_url or profile.issuer).netloc or settings.provider_names[of]
        key = place, profile.max_rate, profile.max_concurrent
        if key not in self._paces:
            self._paces[key] = Pace(
                self._around.random, rate=profile.max_rate, at_once=profile.max_concurrent
            )
        return self._paces[key]

    def _tidy(self, of: str) -> bool:
        files = [output.file for output in self.settings.sets[of].outputs if output.file]
        return sweep_all(self.settings.state_dir, files)

    def _followed(self, of: str) -> list[Renewer]:
        return [one for one in self if one.setup.of_set == of and one.setup.followed]

    def _hand(self, one: Claimed, until: float) -> anyio.Event | None:
        """Have a claimed record's token refreshed; None where that is not one of ours."""
        name = self.settings.name_of(one.key)
        renewer = self._renewers.get(name) if name is not None else None
        if name is None or renewer is None:
            return None
        renewer.claimed(one.held, until)
        return self._scheduler.wake(name)

    def _roster(self, of: str, settings: Settings) -> Roster:
        token = settings.sets[of]
        roster = Roster(of, self, self._around.clock, self._around.emit, required=token.required)
        roster.source = open_accounts(settings, of, self._around.store, self._clients)
        roster.every = token.for_each.every if token.for_each is not None else 0.0
        roster.provider = settings.provider_names[of]
        return roster

    # What the control socket asks

    async def status(self, name: str = "") -> dict[str, Any]:
        """Return the status document; `name`: of this token alone, be it one of many that are told of together.

        An account that is not there yet is told of as one without a grant.
        """
        if self.describe is None:
            return {}
        if not name:
            return await self.describe(None)
        renewer = self._renewers.get(name) or Renewer(self._setup(name, self.settings), self._around)
        return await self.describe([msgspec.structs.replace(await renewer.look(), aggregated=False)])

    async def history(self, name: str = "") -> dict[str, list[dict[str, Any]]]:
        """Return the histories of the tokens that are told of one by one; `name`: of this one alone. Newest last."""
        shown = [renewer for renewer in self if not renewer.setup.aggregated]
        if name:
            shown = [self._renewers.get(name) or Renewer(self._setup(name, self.settings), self._around)]
        return {
            renewer.setup.name: history_of(renewer.record or await renewer.reread())
            for renewer in sorted(shown, key=attrgetter("setup.name"))
        }

    async def token(self, name: str) -> AccessToken:
        """Return a valid access token. Raises `HumanNeeded` or `TemporarilyUnavailable` where there is none."""
        renewer = self._renewer(name)
        access = renewer.record.access if renewer.record is not None else None
        if access is not None and access.seconds_left(self._around.clock.wall()) > 0:
            return access
        raise await self.no_token(renewer)

    async def no_token(self, renewer: Renewer) -> SidecarError:
        """Say why there is no (new) access token, as the error whose exit code fits."""
        view = await renewer.look()
        if view.grant_state is GrantState.OK and renewer.yields:
            until = _told_at(self._around.clock.wall() + renewer.awaited)
            return TemporarilyUnavailable(
                f"{view.token}: another daemon on this store is refreshing it, and nobody else may before {until}; "
                "its answer is taken over as soon as it is there"
            )
        return _no_token(view)

    async def refresh(self, name: str, rejected: str | None) -> RefreshReply:
        """Replace an access token that was refused (by default the present one), unless that has happened."""
        renewer = self._renewer(name)
        present = _present(renewer)
        refused = present if rejected is None else rejected
        until, yielded = self._around.clock.boot() + YIELD_PATIENCE, False
        while renewer.refuse(refused):
            turned = self._scheduler.wake(name)
            if turned is not None:
                await turned.wait()
            if turned is None or not renewer.yields or self._around.clock.boot() > until:
                break
            # Another daemon is at it: what it gets is what was asked for.
            yielded = True
            await anyio.sleep(YIELD_LOOK)
        record = renewer.record
        if record is None or record.access is None or record.access.fingerprint == refused:
            raise await self.no_token(renewer)
        done = refused == present and (renewer.asked or not yielded)
        if done:
            message = f"{name} was refreshed to generation {record.generation}"
        else:
            message = f"{name} was replaced already: {record.access.fingerprint} is the present token"
        return RefreshReply(
            refreshed=done,
            message=message,
            fingerprint=record.access.fingerprint,
            expires_at=record.access.expires_at,
        )

    async def seed(self, name: str, request: SeedRequest) -> SeedReply:
        """Start a new lineage from a refresh token, and from the access token that came with it."""
        renewer = self._renewers.get(name) or await self._newcomer(name)
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
        found = self.settings.resolve(name)
        provider = Provider(name, found.settings, found.profile, self._http, self._issuers)

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
        access, refresh = (record.access, record.refresh) if record is not None else (None, None)
        return RevokeReply(
            access.expires_at if access is not None else None,
            refresh.fingerprint if refresh is not None else "",
        )

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
        fixed = [
            *dict.fromkeys(
                key.partition(".")[0]
                for key in FIXED
                if attrgetter(key)(settings) != attrgetter(key)(self.settings)
            ),
            *(
                f"tokens.{of}.for_each.store"
                for of in settings.sets.keys() & self.settings.sets.keys()
                if settings.prefix_of(of) != self.settings.prefix_of(of)
            ),
        ]
        if fixed:
            raise ConfigError(
                [f"{settings.path}: {key}: changes only at a restart of the daemon" for key in fixed]
            )
        old, new = _by_token(self.settings), _by_token(settings)
        changed = {name for name in new if new[name] != old.get(name)}
        gone = {*self.settings.tokens} - {*settings.tokens} | {*self.settings.sets} - {*settings.sets}
        # Everything that can fail comes before anything is touched.
        setups = {name: self._setup(name, settings) for name in sorted(changed & settings.tokens.keys())}
        rosters = {of: self._roster(of, settings) for of in sorted(changed & settings.sets.keys())}
        for name in gone:
            self._drop(name)
        self.settings = settings
        for name, setup in setups.items():
            if name in self._renewers:
                self._renewers[name].reconfigure(setup)
                self._scheduler.wake(name)
            else:
                self._renewers[name] = self._revived(name, setup)
                await self._take_in(name, self._renewers[name])
        for of, roster in rosters.items():
            self._change(of, roster)
        return tuple(sorted(changed | gone))

    def _change(self, of: str, roster: Roster) -> None:
        """Work by another configuration of a set, with the same members."""
        token, known = self.settings.sets[of], self._sets.get(of)
        if known is None:
            self._sets[of] = _Set(token, roster)
            self._begin(of)
            return
        known.roster.source = roster.source
        known.roster.every, known.roster.required = roster.every, roster.required
        known.roster.provider = roster.provider
        known.max_series, known.grant, known.first = _Set(token, roster).max_series, None, None
        if known.claimer is not None:
            self._direct(of, known.claimer)
        for name in [name for name, renewer in self._renewers.items() if renewer.setup.of_set == of]:
            renewer = self._renewers[name]
            try:
                renewer.reconfigure(self._setup(name, self.settings, aggregated=renewer.setup.aggregated))
            except ConfigError:
                # Told of by the roster, which asks for it again.
                self.dismiss(of, name.partition(members.SLASH)[2])
            else:
                self._scheduler.wake(name)
        self._scheduler.wake(of + ROSTER)

    def _drop(self, name: str) -> None:
        """Let go of a token, or of a set with its members, that left the configuration. Files stay as they are."""
        names = [name]
        if name in self._sets:
            self._scheduler.remove(name + ROSTER)
            self._scheduler.remove(name + CLAIMER)
            self._scheduler.remove(name + FOLLOWER)
            del self._sets[name]
            names = [one for one, renewer in self._renewers.items() if renewer.setup.of_set == name]
            self._around.emit(TokenForgotten(name))
        for one in names:
            self._retire(one)
            self._retired[one] = self._renewers.pop(one)
            self._around.emit(TokenForgotten(one))

    def _retire(self, name: str) -> None:
        # A turn of its own may still be under way, and must call for no more of the courier's.
        self._renewers[name].courier.rouse = _nothing
        self._scheduler.remove(name)
        self._scheduler.remove(name + COURIER)

    def _revived(self, name: str, setup: Setup) -> Renewer:
        renewer = self._retired.pop(name, None)
        if renewer is not None:
            renewer.reconfigure(setup)
            return renewer
        return self._begun(setup)

    def _begun(self, setup: Setup) -> Renewer:
        renewer = Renewer(setup, self._around)
        if self._left is None:
            self._left = {}
            for entry in self._around.escrow.entries():
                self._left.setdefault(entry.key, []).append(entry)
        for entry in self._left.pop(setup.key, ()):
            if entry.slip.is_there:
                renewer.recover(entry)
        return renewer

    def _setup(
        self, name: str, settings: Settings, *, aggregated: bool = False, grant: Grant | None = None
    ) -> Setup:
        parts = (settings, self._around, self._http, self._issuers, self._clients)
        of = name.partition(members.SLASH)[0]
        if of not in settings.sets:
            return make_setup(name, *parts)
        token, found = settings.sets[of], self._sets[of]
        if grant is None and members.ACCOUNT not in (token.subject or ""):
            # They differ by their refresh tokens alone, which it is handed.
            grant = found.grant = found.grant or make_grant(name, *parts)
        setup = make_setup(name, *parts, grant=grant, like=found.first)
        absence = (
            max(ABSENCE, 3 * found.roster.every) if token.for_each and token.for_each.sql is None else 0.0
        )
        store = self._around.store
        # A seed has to be looked at, too, and not only the record.
        followed = isinstance(store, SupportsFollowing) and setup.seed is None
        setup = msgspec.structs.replace(
            setup,
            aggregated=aggregated,
            absence=absence,
            claims=isinstance(store, SupportsClaims),
            line=found.line if isinstance(store, SupportsClaims) else None,
            pace=self._pace_of(of, settings),
            followed=followed,
        )
        if followed and found.first is None:
            found.first = setup
        return setup

    def _renewer(self, name: str) -> Renewer:
        """Find a token that is served. Raises `UnknownToken`."""
        renewer = self._renewers.get(name)
        if renewer is None:
            found = self.settings.resolve(name)
            raise UnknownToken(
                f"{name}: the set {found.of_set} has no such account now; {consent(name, first=True)}"
            )
        return renewer

    async def _newcomer(self, name: str) -> Renewer:
        """Take in an account that is about to get its first grant. Raises `UnknownToken` and `ConfigError`."""
        self.settings.resolve(name)
        return await self._welcome(name)


class _Set:
    """What there is of a set, beside its members' renewers."""

    def __init__(self, token: TokenSettings, roster: Roster) -> None:
        self.roster = roster
        self.max_series = token.for_each.max_series if token.for_each is not None else 0
        self.line = Line()
        self.claimer: Claimer | None = None
        self.settled = False
        """Whether it was found out who the accounts are."""
        self.present: set[str] = set()
        """The accounts that are served, but for those on their way out."""
        self.alone: set[str] = set()
        """Accounts that have series of their own."""
        self.first: Setup | None = None
        """What the members' setups share what they can with; None where each looks after its files by itself."""
        self.grant: Grant | None = None
        """The one that all members share, where they can."""


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


def _nothing(_: Courier) -> None:
    """There is nobody to be roused any more."""


def _by_token(settings: Settings) -> dict[str, Any]:
    return {
        name: (token, settings.profiles[name], settings.provider_names[name])
        for name, token in settings.entries.items()
    }


def _present(renewer: Renewer) -> str:
    record = renewer.record
    return record.access.fingerprint if record is not None and record.access is not None else ""


def _told_at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")


def _no_token(view: TokenView) -> SidecarError:
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
