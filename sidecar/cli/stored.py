"""How tokens stand, as far as the store and the outputs tell while no daemon runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from sidecar import __version__, links, schedule
from sidecar.cli import common
from sidecar.clients.shared import SharedClients
from sidecar.clock import SystemClock
from sidecar.courier import Courier
from sidecar.events import SetListed, TokenView
from sidecar.outputs import open_output, open_remote_output
from sidecar.publisher import Publisher
from sidecar.pulse import Heartbeats
from sidecar.server.status import Process, history_of, status_document
from sidecar.standing import Troubles, remedy, standing, with_record

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.config.settings import TokenSettings
    from sidecar.events import Event, OutputView
    from sidecar.ports import Held


def document(settings: Settings) -> dict[str, Any]:
    """Build the status document, less what only a running daemon knows."""
    clock = SystemClock()
    views, sets = anyio.run(_read, settings, clock)
    whole = status_document(
        views,
        sets=sets,
        process=Process.now(clock, version=__version__, instance=""),
        config={"path": str(settings.path), "accepted": True, "problems": []},
        heartbeats=Heartbeats(clock),
        clock=clock,
    )
    return {key: whole[key] for key in ("version", "now", "config", "tokens", "sets")}


def history(settings: Settings, name: str = "") -> dict[str, list[dict[str, Any]]]:
    """Return each token's last turns, oldest first; `name`: of this token alone."""
    held, _ = anyio.run(_held, settings, SystemClock(), [name] if name else None)
    return {
        one: history_of(found.record if found is not None else None) for one, found in sorted(held.items())
    }


async def _read(settings: Settings, clock: SystemClock) -> tuple[list[TokenView], list[SetListed]]:
    held, sets = await _held(settings, clock)
    return [await view(settings, name, held[name], clock) for name in sorted(held)], sets


async def _held(
    settings: Settings, clock: SystemClock, names: list[str] | None = None
) -> tuple[dict[str, Held | None], list[SetListed]]:
    """Read these records; None: of all tokens, and of those members of sets that are told of one by one."""
    held: dict[str, Held | None] = dict.fromkeys(settings.tokens if names is None else names)
    sets = []
    async with common.open_existing(settings) as store:
        for of, token in settings.sets.items() if names is None else ():
            # Whom an application's database lists is not asked here: these are the accounts that have a grant.
            keys = await store.keys(settings.prefix_of(of)) if store is not None else []
            members = [name for key in keys if (name := settings.name_of(key)) is not None]
            most = token.for_each.max_series if token.for_each is not None else 0
            held |= dict.fromkeys(members[:most])
            more = f"{len(members) - most} more accounts are in the store" if len(members) > most else ""
            sets.append(SetListed(of, members=len(members), problem=more, listed_at=clock.wall()))
        if store is not None:
            held = {name: await store.load(common.key_of(settings, name)) for name in held}
    return held, sets


async def view(settings: Settings, name: str, held: Held | None, clock: SystemClock) -> TokenView:
    """Say how one token stands, by its record and its outputs."""
    found = settings.resolve(name)
    token, profile = found.settings, found.profile
    record = held.record if held is not None else None
    policy = schedule.Policy(min_validity=token.min_validity, refresh_at=token.refresh_at, lease=token.lease)
    files = [open_output(one, state_dir=settings.state_dir, clock=clock) for one in token.outputs if one.file]
    others = await _looked_at(settings, token, name, clock)
    # It may be as good as here: told to consent, somebody would, where the daemon only has to be started.
    untaken = "there is no refresh token yet; a daemon that starts takes the seed's" if token.seed else ""
    troubles = Troubles(unanswered=held is not None and held.lease_left <= 0, no_seed=untaken)
    state, reason = standing(
        record, troubles, needs_refresh_token=profile.needs_refresh_token, now=clock.wall()
    )
    bare = TokenView(
        token=name,
        provider=found.provider,
        of_set=found.of_set,
        required=token.required,
        on_dead=token.on_dead.value,
        dead_grace=token.dead_grace,
        grant_state=state,
        reason=reason,
        remedy=remedy(name, state, links.page(settings.console.url, name)),
        min_validity=schedule.timing_of(record, policy, profile).min_validity,
        outputs=(*await Publisher(name, files, _ignore).views(), *others),
    )
    return with_record(bare, record, profile, ttl=token.refresh_token_ttl, scopes=token.scopes)


async def _looked_at(
    settings: Settings, token: TokenSettings, name: str, clock: SystemClock
) -> tuple[OutputView, ...]:
    """See what is in the outputs behind a network, where no daemon has done so."""
    courier = Courier(name, _ignore, clock)
    async with SharedClients() as clients:
        remote = [target for target in token.outputs if not target.file]
        outputs = [
            open_remote_output(one, state_dir=settings.state_dir, clock=clock, clients=clients)
            for one in remote
        ]
        courier.furnish(outputs, ())
        await courier.turn(lambda: None)
        return await courier.views()


def _ignore(_event: Event) -> None:
    """Nobody observes what is only read."""
