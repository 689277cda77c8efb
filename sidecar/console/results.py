"""What came of the actions that browsers began: kept for a while, each for the browser that began it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

import anyio

from sidecar.console.signing import new_id
from sidecar.console.views import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Work = Callable[[], Coroutine[Any, Any, None]]
    Start = Callable[[Work], None]

MOST = 1024
HELD = 20.0
"""Seconds for which a request waits for a result: a page that loads once beats one that loads anew each second."""

HELD_OF_ONE = 4
"""Requests of one user that wait at a time. Others are answered at once, and load themselves anew: waiting takes up a
connection, of which there are few for all."""


class Job:
    """One action, under way or over."""

    def __init__(self, session: str, action: str, token: str, back: str) -> None:
        """`back` is the path of the page that it began on."""
        self.id = new_id()
        self.session = session
        self._over = anyio.Event()
        self.result = Result(action=action, token=token, done=False, worked=False, text="", back=back)

    def tell(self, text: str) -> None:
        """Say why it takes long."""
        self._set(text, done=False, worked=False)

    def end(self, text: str, *, worked: bool) -> None:
        """Say what came of it."""
        self._set(text, done=True, worked=worked)
        self._over.set()

    def _set(self, text: str, *, done: bool, worked: bool) -> None:
        old = self.result
        self.result = Result(
            action=old.action, token=old.token, done=done, worked=worked, text=text, back=old.back
        )

    async def over(self) -> None:
        """Wait until it is over."""
        await self._over.wait()


class Jobs:
    """The actions of one console."""

    def __init__(self, start: Start) -> None:
        """`start` runs what is to go on whether or not the browser waits for it."""
        self._start = start
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self._waiting: Counter[str] = Counter()

    def begin(self, job: Job, work: Work) -> Job:
        """Begin the work, which ends the job itself."""
        self.keep(job)
        self._start(work)
        return job

    def keep(self, job: Job) -> Job:
        """Keep a job that is over already."""
        self._kept[job.id] = job
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return job

    def find(self, name: str, session: str) -> Job | None:
        """Return a job to the browser that began it."""
        job = self._kept.get(name)
        return job if job is not None and job.session == session else None

    async def wait(self, job: Job, user: str) -> None:
        """Wait until a job is over: for a while, and not with too many requests of one user at a time."""
        if self._waiting[user] >= HELD_OF_ONE:
            return
        self._waiting[user] += 1
        try:
            with anyio.move_on_after(HELD):
                await job.over()
        finally:
            self._waiting[user] -= 1
            self._waiting += Counter()  # forgets those who don't wait
