"""Outputs behind a network, and hooks: nothing waits for them, and they get the latest token all the same."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio

from sidecar.courier import LAST_SECONDS
from sidecar.errors import HookError, OutputError
from sidecar.events import Delivered, HookRan, OutputWritten
from sidecar.profile import Profile, Rotation
from sidecar.schedule import Policy
from tests.engine.conftest import ROTATING, House, Shelf, VirtualClock

if TYPE_CHECKING:
    from sidecar.ports import Answer, Occasion, Publication

DAY = 86400.0
HOOK_SECONDS = 20.0
CALL = 5.0


class Cabinet(Shelf):
    """An output behind a network."""

    required = False

    def __init__(self, clock: VirtualClock, name: str = "secret:ns/name/key") -> None:
        super().__init__(name)
        self.clock = clock
        self.silent = False
        self.times: list[float] = []
        """When it was asked."""
        self.looks = 0

    async def look(self) -> None:
        self.looks += 1
        await self._call()

    async def publish(self, publication: Publication) -> bool:
        self.times.append(self.clock.wall())
        await self._call()
        return await super().publish(publication)

    async def _call(self) -> None:
        if self.silent:
            await anyio.sleep(CALL)
            raise OutputError(f"{self.id}: no answer")
        await anyio.sleep(0.1)


class Bell:
    """A hook that remembers what it was told."""

    def __init__(
        self, clock: VirtualClock, *, by_lineage: bool = False, busy: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.id = "bell"
        self.by_lineage = by_lineage
        self.timeout = HOOK_SECONDS
        self.attempts: int | None = None
        self.clock = clock
        self.busy = busy
        self.failing = ""
        self.rung: list[Occasion] = []
        self.tried: list[float] = []
        self.watch: Callable[[], object] = lambda: None

    async def run(self, occasion: Occasion) -> bool:
        self.tried.append(self.clock.wall())
        await anyio.sleep(self.busy())
        if self.failing:
            raise HookError(self.failing)
        self.watch()
        self.rung.append(occasion)
        return True


def generations(bell: Bell) -> list[int]:
    """Return which tokens it was told of."""
    return [occasion.mark.generation for occasion in bell.rung]


async def test_a_silent_server_holds_up_neither_files_nor_renewals(house: House) -> None:
    """What is behind a network is somebody else's trouble: everything near goes on to the second."""
    daemon = house.daemon(seed=house.provider.new_grant())
    files: list[float] = []
    publish = daemon.shelf.publish

    async def noted(publication: Publication) -> bool:
        wrote = await publish(publication)
        files.extend([house.clock.wall()] if wrote else [])
        return wrote

    daemon.shelf.publish = noted  # type: ignore[method-assign]
    cabinets = [Cabinet(house.clock, f"secret:ns/name/{number}") for number in range(8)]
    for cabinet in cabinets:
        cabinet.silent = True
    daemon.renewer.courier.furnish(cabinets, ())

    await daemon.run(DAY / 8)

    assert len(files) == len(daemon.grant.calls)
    assert max(wrote - called for wrote, called in zip(files, daemon.grant.calls, strict=True)) < 0.5
    assert all(not cabinet.publications for cabinet in cabinets)
    assert 0 < len(cabinets[0].times) <= DAY / 8 / (30 + CALL) + 20, "and it is not asked without pause"
    problems = [output.problem for output in (await daemon.renewer.look()).outputs[1:]]
    assert problems == ["no answer"] * len(cabinets)


async def test_it_occupies_no_worker(house: House) -> None:
    """Whoever gave it its turn is free at once, however long that lasts."""
    cabinet = Cabinet(house.clock)
    cabinet.silent = True
    courier = house.daemon(remote_outputs=(cabinet,)).renewer.courier
    freed: list[float] = []

    await courier.turn(lambda: freed.append(anyio.current_time()))

    assert anyio.current_time() - freed[0] == CALL


async def test_after_an_outage_it_gets_the_latest_token_alone(house: House) -> None:
    """What came between is of no use to anybody."""
    cabinet = Cabinet(house.clock)
    daemon = house.daemon(seed=house.provider.new_grant(), remote_outputs=(cabinet,))
    cabinet.silent = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 4.25 * 3600)
        await anyio.sleep(4 * 3600)
        cabinet.silent = False

    assert len(daemon.shelf.publications) > 4
    assert cabinet.publications == daemon.shelf.publications[-1:]
    assert (await daemon.renewer.look()).outputs[1].problem is None


async def test_one_that_fails_stops_no_other(house: House) -> None:
    """Each is published to, and tried again, by itself; and the sentence tells of those that succeeded."""
    good, bad = Cabinet(house.clock, "secret:good"), Cabinet(house.clock, "secret:bad")
    bad.silent = True
    daemon = house.daemon(seed=house.provider.new_grant(), remote_outputs=(bad, good))
    await daemon.run(DAY / 6)

    assert good.publications == daemon.shelf.publications
    written = [event.output for event in daemon.of(OutputWritten) if event.outcome == "written"]
    assert written.count("secret:good") == len(good.publications)
    told = [event.sentence for event in daemon.of(Delivered) if event.noteworthy]
    assert told == ["published to secret:good"] * len(good.publications)


async def test_it_is_looked_at_every_minute(house: House) -> None:
    """Whatever somebody does to it is seen, also while there is nothing to publish."""
    cabinet = Cabinet(house.clock)
    unseeded = house.daemon(remote_outputs=(cabinet,))
    unseeded.renewer.courier.rouse(unseeded.renewer.courier)

    await unseeded.run(600)

    assert cabinet.looks in {10, 11}
    assert cabinet.times == []


async def test_hooks_run_once_for_each_token_after_everybody_has_it(house: House) -> None:
    """Who is told finds the new token in the store and in every output."""
    cabinet, bell = Cabinet(house.clock), Bell(house.clock)
    daemon = house.daemon(seed=house.provider.new_grant(), remote_outputs=(cabinet,), hooks=(bell,))
    found: list[tuple[int, int, int]] = []

    def watch() -> None:
        stored = daemon.renewer._ledger.stored
        assert stored is not None
        found.append(
            (stored.generation, daemon.shelf.publications[-1].generation, cabinet.publications[-1].generation)
        )

    bell.watch = watch
    await daemon.run(DAY / 6)

    assert generations(bell) == [one.generation for one in daemon.shelf.publications]
    assert found == [(number, number, number) for number in generations(bell)]
    assert {event.outcome for event in daemon.of(HookRan)} == {"done"}


async def test_hooks_wait_for_the_commit(house: House) -> None:
    """A token that may be published before its commit is told of after it."""
    killing = Profile(title="killing", rotation=Rotation.ALWAYS, kills_old_access_token=True)
    bell = Bell(house.clock)
    daemon = house.daemon(profile=killing, seed=house.provider.new_grant(), hooks=(bell,))
    call = daemon.grant.call

    async def answered_as_the_store_goes(*arguments: Any, **options: Any) -> Answer:
        answer = await call(*arguments, **options)
        house.store.fail_writes = 10**6 if len(daemon.grant.calls) == 2 else 0
        return answer

    daemon.grant.call = answered_as_the_store_goes  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 2 * 3600)
        await daemon.grant.called(2)
        await anyio.sleep(600)
        assert daemon.shelf.publications[-1].generation == 2
        assert generations(bell) == [1]
        house.store.fail_writes = 0
        await anyio.sleep(600)
        assert generations(bell) == [1, 2]


async def test_hooks_wait_for_an_output_that_fails(house: House) -> None:
    """Whoever is restarted must not read the old token again."""
    cabinet, bell = Cabinet(house.clock), Bell(house.clock)
    cabinet.silent = True
    daemon = house.daemon(seed=house.provider.new_grant(), remote_outputs=(cabinet,), hooks=(bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 1200)
        await anyio.sleep(600)
        assert bell.rung == []
        [view] = (await daemon.renewer.look()).hooks
        assert view.pending
        cabinet.silent = False
        await anyio.sleep(60)
        assert generations(bell) == [1]


async def test_hooks_that_fail_or_hang_are_tried_again_and_delay_nothing(house: House) -> None:
    """With growing pauses, for the latest token alone; renewals go on to the second."""
    bell = Bell(house.clock, busy=lambda: 3600.0 if len(bell.tried) % 2 else 0.0)
    bell.failing = "nobody is there"
    # Looked at every minute, which must not run the hook as often.
    cabinet = Cabinet(house.clock)
    daemon = house.daemon(seed=house.provider.new_grant(), remote_outputs=(cabinet,), hooks=(bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, DAY / 4)
        await anyio.sleep(DAY / 8)
        assert 4 < len(bell.tried) < DAY / 8 / 100
        outcomes = {event.outcome for event in daemon.of(HookRan)}
        assert outcomes == {"failed"}
        reasons = {event.reason for event in daemon.of(HookRan)}
        assert reasons == {"nobody is there", f"bell: it took longer than {HOOK_SECONDS:g} s"}
        bell.failing, bell.busy = "", lambda: 0.0
    assert max(after - before for before, after in pairwise(daemon.grant.calls)) <= 0.75 * 3600 + 1
    assert generations(bell)[0] > 2, "what came between is left out"
    assert generations(bell)[-1] == daemon.shelf.publications[-1].generation


async def test_a_hook_that_has_failed_often_enough_waits_for_the_next_token(house: House) -> None:
    """Each token has as many attempts, at once when it comes; until one succeeds it is said that nobody was told."""
    bell = Bell(house.clock)
    bell.failing, bell.attempts = "nobody is there", 3
    daemon = house.daemon(seed=house.provider.new_grant(), hooks=(bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, DAY / 6)
        await anyio.sleep(1800)
        [view] = (await daemon.renewer.look()).hooks
        told = "nobody is there; given up after 3 attempts, until there is another token"
        assert (len(bell.tried), view.pending, view.problem) == (3, True, told)
        await anyio.sleep(DAY / 8 - 3600)
        tokens = len(daemon.shelf.publications)
        assert tokens > 2
        assert len(bell.tried) == 3 * tokens
        bell.failing = ""
        await anyio.sleep(3600)
        [view] = (await daemon.renewer.look()).hooks
        assert (view.pending, view.problem) == (False, None)


async def test_a_hook_that_was_given_up_is_tried_again_once_it_is_configured_anew(house: House) -> None:
    """Whoever repairs it in the configuration need not wait for the next token, and nobody is told twice."""
    bell = Bell(house.clock)
    bell.failing, bell.attempts = "nobody is there", 1
    daemon = house.daemon(seed=house.provider.new_grant(), hooks=(bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 1800)
        await anyio.sleep(600)
        assert generations(bell) == []
        bell.failing = ""
        for _ in range(2):
            daemon.renewer.courier.furnish((), (bell,))
            daemon.renewer.courier.post(daemon.shelf.publications[-1], settled=True)
            await anyio.sleep(300)
            assert generations(bell) == [1]


async def test_a_hook_that_is_due_and_may_not_run_makes_no_turns(house: House) -> None:
    """It failed, and then an output fails, and then the token expires: the courier doesn't spin."""
    cabinet, bell = Cabinet(house.clock), Bell(house.clock)
    bell.failing = "nobody is there"
    daemon = house.daemon(seed=house.provider.new_grant(), remote_outputs=(cabinet,), hooks=(bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 3 * 3600)
        await anyio.sleep(1800)
        cabinet.silent = True
        daemon.grant.unreachable = 10**6
    assert len(daemon.of(Delivered)) < 3 * 3600 / 20
    assert (await daemon.renewer.look()).expires_at < house.clock.wall()  # type: ignore[operator]


async def test_a_hook_by_lineage_is_told_of_new_consents_alone(house: House) -> None:
    """Who refreshes by himself has to know of a new refresh token, and of no access token."""
    bell = Bell(house.clock, by_lineage=True)
    daemon = house.daemon(seed=house.provider.new_grant(), hooks=(bell,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, DAY / 6)
        await anyio.sleep(DAY / 12)
        assert len(bell.rung) == 1
        daemon.renewer.setup.seed.value = house.provider.new_grant()  # type: ignore[union-attr]
    lineages = [occasion.mark.lineage for occasion in bell.rung]
    assert len(set(lineages)) == len(lineages) == 2


async def test_what_is_owed_at_the_end_is_carried_in_one_attempt(house: House) -> None:
    """A command or an init container ends as soon as its token is there; what answers gets it, what is silent not."""
    policy = Policy(refresh_at=0.5)
    cabinet, silent, bell = Cabinet(house.clock), Cabinet(house.clock, "secret:silent"), Bell(house.clock)
    daemon = house.daemon(profile=ROTATING, policy=policy, seed=house.provider.new_grant())
    daemon.renewer.courier.furnish((cabinet,), (bell,))
    daemon.renewer.courier.rouse = lambda _: None
    await daemon.run(10)
    assert cabinet.publications == []

    await daemon.renewer.courier.finish()
    assert cabinet.publications == daemon.shelf.publications
    assert generations(bell) == [1]
    await daemon.renewer.courier.finish()
    assert len(cabinet.times) == 1, "what is owed no more costs nothing"

    silent.silent = True
    daemon.renewer.courier.furnish((silent,), ())
    daemon.renewer.courier.post(daemon.shelf.publications[-1], settled=True)
    began = anyio.current_time()
    await daemon.renewer.courier.finish()
    assert anyio.current_time() - began <= LAST_SECONDS
