"""The scheduler: every token gets its turns, from few workers, by whichever clock says "now" first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sidecar.pulse import STALE_AFTER, TICK, Heartbeats, Pulse
from sidecar.schedule import Wake
from sidecar.scheduler import Scheduler
from tests.engine.conftest import EPOCH, VirtualClock


class Task:
    """Takes turns and writes down when."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        *,
        lasts: float = 0.0,
        every: float = 100.0,
        late_after: float | None = None,
        urgency: float = 0.0,
    ) -> None:
        self.stage, self.name = stage, name
        self.lasts, self.every, self.late_after, self.urgency = lasts, every, late_after, urgency
        self.began: list[float] = []
        self.ended: list[float] = []
        self.crash = False

    async def turn(self, late: Callable[[], None]) -> Wake:
        self.began.append(self.stage.clock.boot())
        self.stage.running += 1
        self.stage.most = max(self.stage.most, self.stage.running)
        if self.crash:
            raise RuntimeError("a bug")
        if self.late_after is not None:
            await anyio.sleep(self.late_after)
            self.stage.running -= 1
            late()
            await anyio.sleep(self.lasts - self.late_after)
        else:
            await anyio.sleep(self.lasts)
            self.stage.running -= 1
        self.ended.append(self.stage.clock.boot())
        return Wake(self.stage.clock.wall() + self.every, self.urgency)


class Stage:
    """A scheduler on a virtual clock, and what happened on it."""

    def __init__(self, workers: int = 2) -> None:
        self.clock = VirtualClock()
        self.pulse = Pulse()
        self.heartbeats = Heartbeats(self.clock)
        self.scheduler = Scheduler(self.clock, self.heartbeats, self.pulse, workers=workers)
        self.running = self.most = 0

    def task(self, name: str = "t", **options: Any) -> Task:
        """Add a task."""
        task = Task(self, name, **options)
        self.scheduler.add(name, task)
        return task

    async def run(self, seconds: float) -> None:
        """Let it run for so long."""
        with anyio.move_on_after(seconds):
            await self.scheduler.run()


async def test_a_token_gets_its_first_turn_now_and_the_next_when_it_asked() -> None:
    """No earlier, no later."""
    stage = Stage()
    task = stage.task(every=100)
    await stage.run(350)
    assert task.began == pytest.approx([0, 100, 200, 300])


async def test_workers_are_bounded() -> None:
    """Ten tokens that take a second each, two workers: never more than two at once."""
    stage = Stage(workers=2)
    tasks = [stage.task(str(number), lasts=1) for number in range(10)]
    await stage.run(6)
    assert stage.most == 2
    assert sorted(task.ended[0] for task in tasks) == pytest.approx([1, 1, 2, 2, 3, 3, 4, 4, 5, 5])


async def test_a_late_turn_gives_its_worker_back_and_is_not_taken_twice() -> None:
    """The others go on; its own token waits for the end of that turn."""
    stage = Stage(workers=1)
    slow = stage.task("slow", lasts=200, late_after=5, every=1)
    other = stage.task("other", every=10)
    await stage.run(195)
    assert len(slow.began) == 1
    assert len(other.began) >= 18


async def test_the_nearest_end_goes_first_among_those_that_are_due() -> None:
    """When all are due at once, whoever's readers would be hurt first is served first."""
    stage = Stage(workers=1)
    tasks = [stage.task(str(end), lasts=1, every=100, urgency=float(end)) for end in (30, 10, 20)]
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 140)
        await anyio.sleep(50)
        stage.clock.suspended += 300
    second = {task.name: task.began[1] for task in tasks}
    assert second["10"] < second["20"] < second["30"]


async def test_a_wake_is_a_turn_that_begins_from_now_on() -> None:
    """Asked for in the middle of a turn, the event tells the end of the next one."""
    stage = Stage()
    task = stage.task(lasts=10, every=1000)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 100)
        await anyio.sleep(5)
        done = stage.scheduler.wake("t")
        assert done is not None
        await done.wait()
        assert stage.clock.boot() == pytest.approx(20)
        done = stage.scheduler.wake("t")
        assert done is not None
        await done.wait()
        assert stage.clock.boot() == pytest.approx(30)
    assert task.began == pytest.approx([0, 10, 20])


async def test_many_wakes_are_one_turn() -> None:
    """Fifty callers during one turn cause one more, not fifty."""
    stage = Stage()
    task = stage.task(lasts=10, every=1000)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 100)
        await anyio.sleep(5)
        for _ in range(50):
            stage.scheduler.wake("t")
    assert len(task.began) == 2


async def test_nobody_known_is_not_woken() -> None:
    """A name that is not served has no turn to wait for."""
    assert Stage().scheduler.wake("t") is None


async def test_a_removed_token_has_no_more_turns() -> None:
    """Neither the one that waits nor the one that is ready; whoever waits for it is let go."""
    stage = Stage(workers=1)
    busy, gone = stage.task("busy", lasts=10), stage.task("gone")
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 500)
        await anyio.sleep(5)
        done = stage.scheduler.wake("gone")
        stage.scheduler.remove("gone")
        assert done is not None
        await done.wait()
        assert stage.scheduler.wake("gone") is None
        stage.scheduler.remove("gone")
    assert gone.began == []
    assert len(busy.began) == 5


async def test_a_token_that_comes_back_waits_for_its_own_turn_to_end() -> None:
    """Removed and added again during a long call: its turns never overlap."""
    stage = Stage(workers=2)
    first = stage.task(lasts=60, late_after=1)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 200)
        await anyio.sleep(10)
        stage.scheduler.remove("t")
        assert stage.scheduler.wake("t") is None
        second = stage.task(every=1000)
    assert len(first.began) == 1
    assert second.began == pytest.approx([60])


async def test_a_removed_token_is_forgotten_after_its_turn() -> None:
    """One that comes back later starts afresh."""
    stage = Stage()
    stage.task(lasts=10)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 100)
        await anyio.sleep(5)
        stage.scheduler.remove("t")
        await anyio.sleep(10)
        assert stage.scheduler.wake("t") is None
        again = stage.task()
    assert again.began == pytest.approx([15])


async def test_a_bug_ends_the_run() -> None:
    """It is not slept over: whoever supervises sees it."""
    stage = Stage()
    stage.task().crash = True
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        await stage.run(10)


async def test_none_of_a_thousand_tokens_starves() -> None:
    """Two workers, tenth-of-a-second turns, one turn each every two minutes."""
    stage = Stage(workers=2)
    tasks = [
        stage.task(str(number), lasts=0.1, every=120, urgency=float(number % 7)) for number in range(1000)
    ]
    await stage.run(600)
    assert min(len(task.began) for task in tasks) >= 3
    longest = max(
        later - earlier for task in tasks for earlier, later in zip(task.began, task.began[1:], strict=False)
    )
    assert longest < 180


async def test_a_clock_that_jumps_ahead_is_followed_within_a_tick() -> None:
    """What the wall clock made due is due."""
    stage = Stage()
    task = stage.task(every=3600)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 200)
        await anyio.sleep(100)
        stage.clock.stepped = 7200
    assert 100 < task.began[1] <= 100 + TICK


async def test_a_clock_that_jumps_back_delays_nothing() -> None:
    """The boot-time clock says when an hour is over."""
    stage = Stage()
    task = stage.task(every=3600)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 3700)
        await anyio.sleep(100)
        stage.clock.stepped = -86400
    assert task.began == pytest.approx([0, 3600])


async def test_a_suspended_machine_catches_up_within_a_tick() -> None:
    """Timers stood still, the boot-time clock did not."""
    stage = Stage()
    task = stage.task(every=3600)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.run, 200)
        await anyio.sleep(100)
        stage.clock.suspended = 86400
    assert len(task.began) == 2


async def test_idle_workers_stamp() -> None:
    """With nothing to do for an hour, nobody counts as hung."""
    stage = Stage(workers=3)
    await stage.run(3600)
    assert sorted(stage.heartbeats.ages()) == ["renewer-0", "renewer-1", "renewer-2"]
    assert max(stage.heartbeats.ages().values()) <= TICK
    assert stage.heartbeats.stale() == []


async def test_a_hung_turn_makes_its_worker_stale() -> None:
    """Liveness sees exactly the one that neither ends nor says that it is late."""
    stage = Stage(workers=2)
    stage.task("hung", lasts=1e9)
    stage.task("well", every=10)
    await stage.run(STALE_AFTER + TICK + 1)
    assert len(stage.heartbeats.stale()) == 1


async def test_a_late_turn_leaves_its_worker_fresh() -> None:
    """A provider that is slow is no reason to restart the pod."""
    stage = Stage(workers=1)
    stage.task(lasts=290, late_after=20)
    await stage.run(280)
    assert stage.heartbeats.stale() == []


async def test_an_idle_daemon_wakes_twice_a_minute() -> None:
    """One tick for the whole house."""
    stage = Stage()
    beats = 0
    wait = stage.pulse.beat

    def counted() -> None:
        nonlocal beats
        beats += 1
        wait()

    stage.pulse.beat = counted  # type: ignore[method-assign]
    await stage.run(3600)
    assert 118 <= beats <= 121


async def test_wall_times_are_followed_however_odd() -> None:
    """A wake in the past is a turn now; the epoch of the clock doesn't matter."""
    stage = Stage()
    stage.clock.stepped = -EPOCH - 5000
    task = stage.task(every=-50, lasts=1)
    await stage.run(3.5)
    assert task.began == pytest.approx([0, 1, 2, 3])
