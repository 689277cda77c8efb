"""Wiring: a configuration in, a running daemon out. Root tasks in one flat list, and the order of its end.

On SIGTERM the scheduler stops first: turns that wait are dropped, a turn that has called the provider sees its
answer home. Probes and metrics are served until that is done, and a token that the store does not have yet keeps
the process from leaving until it has, or until it is killed.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
import structlog

from sidecar import __version__
from sidecar.board import Board
from sidecar.clients.http import HttpClient
from sidecar.clients.shared import SharedClients
from sidecar.clock import SystemClock
from sidecar.contents import no_traces
from sidecar.engine import Engine
from sidecar.errors import ConfigError, HumanNeeded, InstanceRunning, StoreError, TemporarilyUnavailable
from sidecar.escrow import Escrow
from sidecar.events import Delivered, Event, SetListed, TokenView, TurnEnded, Warned
from sidecar.notify import ServiceManager
from sidecar.observers import fan_out
from sidecar.observers.audit import AuditObserver
from sidecar.observers.log import LogObserver
from sidecar.observers.metrics import Metrics
from sidecar.observers.termination import TerminationLog
from sidecar.pulse import TICK, Heartbeats, Pulse
from sidecar.scheduler import Scheduler
from sidecar.seal import open_sealer
from sidecar.server import health
from sidecar.server.client import ControlClient, NotRunning
from sidecar.server.control import control_app
from sidecar.server.http import Site, probes_app
from sidecar.server.marker import StartMarker
from sidecar.server.serve import (
    CannotListen,
    HttpServer,
    bind_tcp,
    bind_unix,
    group_id,
    names_of,
    publish_address,
    url_of,
)
from sidecar.server.status import ConfigState, Process
from sidecar.server.wire import SOCKET_FILE
from sidecar.setup import Surroundings
from sidecar.state_dir import StateDir
from sidecar.stores import open_store
from sidecar.tokens import GrantState
from sidecar.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from socket import socket

    from anyio.abc import TaskStatus

    from sidecar.clock import Clock
    from sidecar.config import Loaded, Settings
    from sidecar.observers.spans import Spans
    from sidecar.ports import Observer, Sealer, Store

PATIENCE = 330.0
"""Seconds for which somebody else may hold the lock: a provider's answer is waited for up to five minutes."""
POLL = 0.1


Reply = TypeVar("Reply")

_log = structlog.get_logger("sidecar")


class House:
    """The parts that every way of running shares."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part
        self,
        loaded: Loaded,
        clock: Clock,
        state: StateDir,
        store: Store,
        sealer: Sealer,
        http: HttpClient,
        clients: SharedClients,
        environ: Mapping[str, str],
        observers: Sequence[Observer] = (),
    ) -> None:
        """Put the engine and its observers together; nothing runs yet. `observers`: more than there always are."""
        settings = loaded.settings
        self.settings = settings
        self.clock = clock
        self.state = state
        self.board = Board()
        self.heartbeats = Heartbeats(clock)
        self.pulse = Pulse()
        self.metrics = Metrics(clock=clock, heartbeats=self.heartbeats, store=store.kind, version=__version__)
        self.config_state = ConfigState(clock, str(settings.path))
        self.ended_turns = anyio.Event()
        self.patient = False
        """Whether whatever is delivered at the end has all the time it may take: nobody sent SIGTERM."""
        watching: list[Observer] = [
            self.board,
            self.metrics,
            self.config_state,
            LogObserver(clock),
            TerminationLog(),
            AuditObserver(
                clock, settings.audit.file, state.instance, rotations=settings.audit.tells_rotations
            ),
            *observers,
            self,
        ]
        self.emit: Callable[[Event], None] = fan_out(watching)
        workers = settings.max_workers if settings.sets else min(settings.max_workers, len(settings.tokens))
        self.scheduler = Scheduler(clock, self.heartbeats, self.pulse, workers=max(1, workers))
        escrow = Escrow(state.escrow, sealer)
        escrow.prepare()
        around = Surroundings(clock, store, escrow, state.instance, self.emit, random.SystemRandom().random)
        self.engine = Engine(
            settings,
            around,
            http=http,
            clients=clients,
            scheduler=self.scheduler,
            board=self.board,
            environ=environ,
        )
        sealer.tell = lambda reason: self.emit(Warned("encryption", reason))
        for warning in loaded.warnings:
            self.emit(Warned("configuration", warning))

    def notice(self, event: Event) -> None:
        """Wake whoever waits for something to have happened."""
        if isinstance(event, TurnEnded | Delivered | SetListed):
            ended, self.ended_turns = self.ended_turns, anyio.Event()
            ended.set()

    async def renew(self, scope: anyio.CancelScope) -> None:
        """Give the tokens their turns until `scope` is cancelled, then see home what is under way."""
        with scope:
            await self.scheduler.run()
        with anyio.CancelScope(shield=True):
            for renewer in self.engine:
                delay = 0.1
                while renewer.unpersisted:
                    try:
                        await renewer.settle()
                    except StoreError:
                        await anyio.sleep(delay)
                        delay = min(delay * 2, 5.0)
            await self.engine.finish(patiently=self.patient)

    async def settle(self, renewing: anyio.CancelScope) -> None:
        """End `renew` because all is done: what is being delivered is not broken off, only to be done again."""
        await self.engine.rest()
        self.patient = True
        renewing.cancel()


@asynccontextmanager
async def open_house(
    loaded: Loaded,
    *,
    environ: Mapping[str, str] = os.environ,
    state_dir: AbstractContextManager[StateDir] | None = None,
) -> AsyncIterator[House]:
    """Lock `state_dir`, open the store and put everything together. Raises `SidecarError`.

    `state_dir`: one whose lock is shared with others of this process, each of which works on other tokens.
    """
    settings, clock = loaded.settings, SystemClock()
    async with AsyncExitStack() as stack:
        state = stack.enter_context(own_state_dir(settings) if state_dir is None else state_dir)
        place = settings.store
        sealer = open_sealer(place.encryption_keys, strict=place.require_encryption)
        clients = await stack.enter_async_context(SharedClients())
        store = await stack.enter_async_context(
            open_store(
                str(place.url),
                clock,
                sealer,
                url_file=place.url_file,
                clients=clients,
                namespace=settings.namespace,
                delete_dead=place.delete_dead,
            )
        )
        http = await stack.enter_async_context(
            HttpClient(clock, allow_insecure_http=settings.allow_insecure_http)
        )
        observers = []
        if settings.tracing.enabled:
            spans = open_spans(state.instance, __version__)
            # In a thread: a collector that hangs keeps no other token of this process waiting.
            stack.push_async_callback(partial(anyio.to_thread.run_sync, spans.close))
            observers.append(spans)
        yield House(loaded, clock, state, store, sealer, http, clients, environ, observers)


def open_spans(instance: str, version: str) -> Spans:
    """Make the observer that makes traces. Raises `ConfigError`, also where its library is not installed."""
    if problem := no_traces():
        raise ConfigError(f"tracing: {problem}")
    from sidecar.observers.spans import Spans

    return Spans(instance, version)


def own_state_dir(settings: Settings) -> StateDir:
    """Make the `state_dir` of a configuration; nothing is locked yet. Raises `ConfigError`."""
    return StateDir(settings.state_dir, group=group_id(settings.control.group))


def control(settings: Settings) -> ControlClient:
    """Make the client of the daemon's control socket; nothing is opened yet."""
    return ControlClient(settings.state_dir / SOCKET_FILE)


async def in_turn(
    work: Callable[[], Awaitable[Reply]],
    instead: Callable[[], Awaitable[Reply]],
    tell: Callable[[str], object],
    *,
    patience: float = PATIENCE,
) -> Reply:
    """Call `work`, which locks `state_dir`, once nobody else has it; `instead` is for where a daemon has it.

    `instead` raises `NotRunning` where no daemon answers: a command or the console is at work, and is waited for.
    `tell` hears of that. Raises `InstanceRunning` after `patience` seconds.
    """
    until, told = time.monotonic() + patience, False
    while True:
        try:
            return await work()
        except InstanceRunning as running:
            try:
                return await instead()
            except NotRunning:
                if time.monotonic() > until:
                    raise InstanceRunning(
                        f"{running}. It was waited for {patience:.0f} s, and no daemon answers there: it is a command, "
                        "a console, or a daemon that is about to begin or to end"
                    ) from None
            if not told:
                tell(f"waiting: {running}")
                told = True
        # Waiting for the lock itself could take it from a daemon that is about to start.
        await anyio.sleep(POLL)


async def serve(loaded: Loaded, *, environ: Mapping[str, str] = os.environ) -> None:
    """Run the daemon until SIGTERM or SIGINT, once no command and no console is at work on its `state_dir`."""
    settings = loaded.settings

    async def refuse() -> None:
        await anyio.to_thread.run_sync(control(settings).status)
        raise InstanceRunning(
            f"{settings.state_dir}: a daemon runs on this state_dir already; stop it, or give each its own"
        )

    await in_turn(partial(_serve, loaded, environ), refuse, _log.warning)


async def _serve(loaded: Loaded, environ: Mapping[str, str]) -> None:
    settings = loaded.settings
    async with open_house(loaded, environ=environ) as house:
        probes = bind_tcp(settings.server.host, settings.server.port)
        commands = bind_unix(settings.state_dir, mode=settings.control.mode, group=settings.control.group)
        _publish_address(house, probes)
        manager = ServiceManager(environ, lambda reason: house.emit(Warned("systemd", reason)))
        site = _site(house, names_of(probes))
        house.engine.describe = partial(_describe, site)
        await house.engine.start()
        watcher = Watcher(house.clock, house.heartbeats, house.pulse, house.emit)
        watcher.watch(house.engine.interests())
        server = partial(HttpServer, pulse=house.pulse, heartbeats=house.heartbeats)
        for_probes = server(probes_app(site), probes, worker="http")
        for_commands = server(control_app(house.engine, house.emit), commands, worker="control")
        renewing = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            # First: who is answered by a probe may already send a signal.
            await tasks.start(_signals, house.engine, renewing, manager.stopping, name="signals")
            await tasks.start(for_probes.run, name="http")
            await tasks.start(for_commands.run, name="control")
            tasks.start_soon(watcher.run, name="watcher")
            tasks.start_soon(_reload, house.engine, watcher, manager, name="reload")
            if manager.listens:
                tasks.start_soon(_report, house, manager, name="report")
            _log.info(
                f"token-sidecar {__version__} keeps {settings.counted}",
                url=url_of(probes),
                instance=house.state.instance,
            )
            await house.renew(renewing)
            tasks.cancel_scope.cancel()


def _publish_address(house: House, probes: socket) -> None:
    """Tell `healthcheck` where the probes are; a daemon that can't is better than none."""
    try:
        publish_address(house.state.path, probes)
    except CannotListen as error:
        house.emit(Warned("server", str(error)))


async def run_once(
    loaded: Loaded, *, environ: Mapping[str, str] = os.environ, wait: float | None = None
) -> None:
    """Return as soon as every required output holds a valid token.

    `wait`: seconds after which to give up; None: never. Raises `HumanNeeded` as soon as only a human can help,
    `TemporarilyUnavailable` when the time is up.
    """
    async with open_house(loaded, environ=environ) as house:
        await house.engine.start()
        renewing = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            await tasks.start(_signals, house.engine, renewing, _nothing, name="signals")
            tasks.start_soon(_stop_when_settled, house, renewing, name="settled")
            with anyio.move_on_after(wait):
                await house.renew(renewing)
            tasks.cancel_scope.cancel()
        views = await house.engine.read_back()
    verdict = health.startupz(views, now=house.clock.wall())
    if verdict.ok:
        return
    problem = "\n".join(verdict.reasons)
    raise HumanNeeded(problem) if is_hopeless(views) else TemporarilyUnavailable(problem)


async def _stop_when_settled(house: House, renewing: anyio.CancelScope) -> None:
    """Stop renewing once every required token is where it is wanted, or waiting is no use."""
    while True:
        turned = house.ended_turns
        views = await house.engine.read_back()
        done = health.startupz(views, now=house.clock.wall()).ok and not house.engine.settling
        if done or is_hopeless(views):
            await house.settle(renewing)
            return
        await turned.wait()


def is_hopeless(views: Sequence[TokenView]) -> bool:
    """Tell whether a required token that had its turn can only be helped by a human."""
    hopeless = (GrantState.DEAD, GrantState.UNSEEDED)
    return any(view.required and view.next_wake and view.grant_state in hopeless for view in views)


def _site(house: House, names: tuple[str, ...]) -> Site:
    process = Process.now(house.clock, version=__version__, instance=house.state.instance)
    return Site(
        board=house.board,
        read_back=house.engine.read_back,
        metrics=house.metrics.render,
        config=house.config_state.as_dict,
        heartbeats=house.heartbeats,
        clock=house.clock,
        process=process,
        marker=StartMarker(house.state.path, warn=lambda reason: house.emit(Warned("startup", reason))),
        names=names,
    )


async def _describe(site: Site, views: Sequence[TokenView] | None) -> dict[str, Any]:
    return site.status(await site.views() if views is None else views)


async def _reload(engine: Engine, watcher: Watcher, manager: ServiceManager) -> None:
    while True:
        await engine.reload_wanted.wait()
        engine.reload_wanted = anyio.Event()
        manager.reloading()
        try:
            await engine.reload()
        except ConfigError:
            continue  # told to the observers by the engine: the old configuration stays in force
        finally:
            manager.reloaded()
        watcher.watch(engine.interests())


async def _report(house: House, manager: ServiceManager) -> None:
    """Tell the service manager when start-up is done, and from then on that every worker works.

    Start-up is done when each required token had its turn: it is where it is wanted, or only time or a human can help,
    for which nobody is kept waiting. Many tokens of a slow provider take their time, and whoever is killed in the
    midst of that begins anew, with answers that were on their way.
    """
    while not all(view.next_wake for view in house.board if view.required):
        if not house.heartbeats.stale():
            manager.starting(4 * TICK)
        with anyio.move_on_after(TICK):
            await house.ended_turns.wait()
    manager.ready()
    while True:
        if not house.heartbeats.stale():
            manager.alive()
        manager.status(_in_a_line(house))
        # A timer of its own: the pulse stops with whoever sends it, and beats for every token that is due.
        await anyio.sleep(min(TICK, (manager.watchdog or math.inf) / 2))


def _in_a_line(house: House) -> str:
    hung = [f"worker {worker} hangs" for worker in house.heartbeats.stale()]
    problems = [*hung, *health.readyz(house.board, now=house.clock.wall()).reasons]
    count = len([*house.board])
    return "; ".join(problems) or f"keeps {count} token{'' if count == 1 else 's'}"


def _nothing() -> None:
    """Nobody has to know."""


async def _signals(
    engine: Engine,
    renewing: anyio.CancelScope,
    stopping: Callable[[], None],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for signum in signals:
            if signum is signal.SIGHUP:
                engine.want_reload()
            else:
                _log.info(f"stopping on {signum.name}")
                stopping()
                renewing.cancel()
