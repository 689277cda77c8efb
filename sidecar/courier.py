"""Brings a token to outputs behind a network, and then runs its hooks. What is there may keep everybody waiting.

So a courier takes turns of its own beside the token's: a renewal, a commit and a file wait for none of this, and an
output that fails holds up no other. It always carries the latest token; what came between is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from sidecar import schedule
from sidecar.errors import HookError, OutputError
from sidecar.events import Delivered, HookRan, HookView
from sidecar.ports import Occasion
from sidecar.publisher import Publisher
from sidecar.schedule import Wake
from sidecar.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.clock import Clock
    from sidecar.events import Course, Event, OutputView
    from sidecar.ports import Hook, Mark, Publication, RemoteOutput

FIRST_RETRY, LAST_RETRY = 1.0, 300.0
"""Seconds between attempts of a hook that fails."""
LAST_SECONDS = 6.0
"""What is left of a delivery when the daemon ends: one call that is not answered."""


class Courier:
    """Serves the remote outputs and the hooks of one token."""

    __slots__ = (
        "_busy",
        "_clock",
        "_did",
        "_emit",
        "_errands",
        "_follows",
        "_latest",
        "_settled",
        "_stops",
        "rouse",
        "token",
    )

    def __init__(self, token: str, emit: Callable[[Event], None], clock: Clock) -> None:
        """Have nothing to do yet."""
        self.token = token
        self._emit = emit
        self._clock = clock
        self._stops: tuple[_Stop, ...] = ()
        self._errands: tuple[_Errand, ...] = ()
        self._latest: Publication | None = None
        self._follows = ""
        self._settled = False
        self._did: list[str] = []
        self._busy: anyio.Lock | None = None
        """Made for those that have work: it takes most of a kilobyte."""
        self.rouse: Callable[[Courier], None] = _nobody
        """Asks for a turn; set by whoever gives turns."""

    def furnish(self, outputs: Sequence[RemoteOutput], hooks: Sequence[Hook]) -> None:
        """Serve these from now on, and no others; what a hook was told of already it is not told again."""
        told = {errand.hook.id: errand.told for errand in self._errands}
        self._stops = tuple(_Stop(self.token, output, self._emit) for output in outputs)
        self._errands = tuple(_Errand(hook, told.get(hook.id)) for hook in hooks)
        self._latest = None
        if self.has_work:
            self.rouse(self)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to serve."""
        return bool(self._stops or self._errands)

    def post(self, publication: Publication, *, settled: bool, turn: str = "") -> None:
        """Take the latest token. `settled`: it is in the store and in all other outputs, so that hooks may run.

        `turn`: the id of the turn that hands it over.
        """
        if self.has_work and (publication, settled) != (self._latest, self._settled):
            self._latest, self._settled, self._follows = publication, settled, turn
            self.rouse(self)

    async def turn(self, late: Callable[[], None]) -> Wake:
        """Take one turn and say when the next is due. It occupies no worker."""
        late()
        self._busy = self._busy or anyio.Lock()
        async with self._busy:
            self._did, watch = [], Stopwatch(self._clock)
            publication, follows = self._current(), self._follows
            async with anyio.create_task_group() as tasks:
                for stop in self._stops:
                    tasks.start_soon(self._serve, stop, publication, watch)
            if publication is not None and self._may_tell(publication):
                await self._tell(publication, watch)
            return self._end(publication, watch.course(), follows)

    async def rest(self) -> None:
        """Wait for the end of a turn that is under way, so that it need not be broken off."""
        if self._busy is not None:
            async with self._busy:
                pass

    def _current(self) -> Publication | None:
        latest = self._latest
        return latest if latest and latest.access.seconds_left(self._clock.wall()) > 0 else None

    async def _serve(self, stop: _Stop, publication: Publication | None, watch: Stopwatch) -> None:
        if publication is None:
            await stop.look()
        else:
            self._did += [f"published to {name}" for name in await stop.publish(publication, watch)]

    def _may_tell(self, publication: Publication) -> bool:
        """Tell whether everything has what the hooks would tell of."""
        return (
            self._settled
            and publication == self._latest
            and all(stop.delivered == publication for stop in self._stops)
        )

    async def _tell(self, publication: Publication, watch: Stopwatch) -> None:
        occasion, now = Occasion(self.token, publication.mark), self._clock.boot()
        async with anyio.create_task_group() as tasks:
            for errand in self._errands:
                if errand.is_due(publication.mark) and errand.not_before <= now:
                    tasks.start_soon(self._run, errand, occasion, watch)

    async def _run(self, errand: _Errand, occasion: Occasion, watch: Stopwatch) -> None:
        hook = errand.hook
        problem, needed = f"{hook.id}: it took longer than {hook.timeout:g} s", False
        with watch.step("hook", hook.id) as note:
            with anyio.move_on_after(hook.timeout):
                try:
                    needed, problem = await hook.run(occasion), ""
                except HookError as error:
                    problem = str(error)
            problem = errand.ended(occasion.mark, problem, self._clock.boot())
            outcome = "failed" if problem else "done" if needed else "unneeded"
            note.outcome, note.problem, note.error = outcome, problem, HookError.__name__ if problem else ""
        self._emit(HookRan(self.token, errand.hook.id, outcome, problem))
        if outcome == "done":
            self._did.append(f"ran {errand.hook.id}")

    def _end(self, publication: Publication | None, course: Course, follows: str) -> Wake:
        delays = [delay for stop in self._stops if (delay := stop.retry_delay()) is not None]
        # What waits for an output, or for a token that lives, is not waited for here.
        if publication is not None and self._may_tell(publication):
            due = (errand for errand in self._errands if errand.is_due(publication.mark))
            delays += [max(0.0, errand.not_before - self._clock.boot()) for errand in due]
        delays += [schedule.QUIET_POLL] if self._stops else []
        at = self._clock.wall() + min(delays, default=math.inf)
        sentence, noteworthy = "; ".join(self._did) or "looked", bool(self._did)
        self._emit(Delivered(self.token, sentence, noteworthy, course, follows))
        return Wake(at, urgency=at)

    async def finish(self, seconds: float = LAST_SECONDS) -> None:
        """Carry what has not been carried yet, in one attempt of so many seconds, at the daemon's end."""
        publication = self._current()
        owed = publication is not None and (
            any(stop.delivered != publication for stop in self._stops)
            or (self._settled and any(errand.is_due(publication.mark) for errand in self._errands))
        )
        if owed:
            with anyio.move_on_after(seconds):
                await self.turn(_nothing)

    async def views(self) -> tuple[OutputView, ...]:
        """Tell what the outputs hold, as far as it is known: nobody is asked."""
        return tuple([view for stop in self._stops for view in await stop.views()])

    def hooks(self) -> tuple[HookView, ...]:
        """Tell how the hooks stand."""
        latest = self._latest
        return tuple(
            HookView(
                errand.hook.id,
                pending=latest is not None and errand.is_owed(latest.mark),
                problem=errand.problem or None,
            )
            for errand in self._errands
        )

    async def marks(self) -> list[Mark]:
        """Tell how far the record had come that each output got from this daemon."""
        return [mark for stop in self._stops if (mark := await stop.mark()) is not None]


class _Stop(Publisher):
    """One remote output: published to, and retried, by itself."""

    __slots__ = ("_output", "delivered")

    def __init__(self, token: str, output: RemoteOutput, emit: Callable[[Event], None]) -> None:
        super().__init__(token, (output,), emit)
        self._output = output
        self.delivered: Publication | None = None
        """What it certainly had when it was last published to."""

    async def publish(self, publication: Publication, watch: Stopwatch) -> list[str]:
        written = await super().publish(publication, watch)
        self.delivered = publication if self.retry_delay() is None else None
        return written

    async def look(self) -> None:
        """See what is there, where there is nothing to publish."""
        try:
            await self._output.look()
        except OutputError as error:
            self._problems[self._output.id] = str(error)
        else:
            self._problems.clear()


class _Errand:
    """One hook, and what it was told of."""

    __slots__ = ("_failed_for", "_failures", "_given_up", "hook", "not_before", "problem", "told")

    def __init__(self, hook: Hook, told: Mark | None) -> None:
        self.hook = hook
        self.told = told
        """Of which token it need not be told any more."""
        self.problem = ""
        self.not_before = 0.0
        """When it may be tried again, on the boot-time clock."""
        self._failures = 0
        self._failed_for = told
        self._given_up: Mark | None = None

    def is_owed(self, mark: Mark) -> bool:
        """Tell whether it has not succeeded for this token yet, be it that nobody tries any more."""
        return self._is_news(mark, self.told)

    def is_due(self, mark: Mark) -> bool:
        """Tell whether it is to be tried for this token."""
        return self.is_owed(mark) and self._is_news(mark, self._given_up)

    def _is_news(self, mark: Mark, known: Mark | None) -> bool:
        if known is None or known.lineage != mark.lineage:
            return True
        return not self.hook.by_lineage and known.generation != mark.generation

    def ended(self, mark: Mark, problem: str, now: float) -> str:
        """Take note of how an attempt went; return what is to be told of it."""
        if problem and self.hook.attempts is not None and mark != self._failed_for:
            self._failures = 0  # each token has as many attempts
        self._failures, self._failed_for = self._failures + 1, mark
        if not problem:
            self.told, self._failures, self.not_before = mark, 0, 0.0
        elif self._failures == self.hook.attempts:
            problem = f"{problem}; given up after {self._failures} attempts, until there is another token"
            self._given_up, self.not_before = mark, 0.0
        else:
            self.not_before = now + min(FIRST_RETRY * 2.0 ** min(self._failures - 1, 10), LAST_RETRY)
        self.problem = problem
        return problem


def _nobody(_: Courier) -> None:
    """Nobody gives turns yet."""


def _nothing() -> None:
    """Nobody waits for a turn."""
