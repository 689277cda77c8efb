"""A daemon with something that happens to it at a certain point of the way from load to publish.

`python -m tests.e2e.child CONFIG POINT ACTION` runs it. `ACTION` is `kill` (SIGKILL) or `stop` (SIGSTOP), done once,
by the process to itself, when it refreshes a token that was refreshed before; `kill-first` doesn't wait for that.
`POINTS` are all there are, in the order of the way. They lie in what all stores share, so that it works on any of
them. In place of `POINT ACTION` may stand

- `hold SECONDS`: another hold for a stranger's lost attempt, which is six minutes;
- `read-limit SECONDS`: less patience with an answer;
- `poll SECONDS`: this for the time that a record may go unread;
- `hang SECONDS`: a worker that doesn't come back from the third turn, and this for the age of a stale heartbeat;
- `deaf SECONDS`: the kernel tells nothing of changed files, and this is the house's tick;
- `weigh FILE`: at SIGUSR1 it collects its garbage and writes down what it holds.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import watchfiles

from sidecar import app, config, pulse, schedule, scheduler, watch
from sidecar.clients import http
from sidecar.escrow import Escrow, Slip, Stage
from sidecar.ledger import Ledger
from sidecar.observers import log
from sidecar.outputs.file import FileOutput
from sidecar.publisher import Publisher
from sidecar.renewer import Renewer
from sidecar.stores.base import RecordStore

POINTS = (
    "before-lease",
    "after-lease",
    "before-arm",
    "after-arm",
    "before-sent",
    "after-sent",
    "awaiting-answer",
    "before-read",
    "after-read",
    "before-escrow",
    "inside-escrow",
    "after-escrow",
    "after-commit",
    "before-release",
    "after-release",
    "before-publish",
    "before-index",
    "before-rename",
    "after-rename",
    "after-publish",
)
OUT = POINTS[POINTS.index("awaiting-answer") :]
"""Where the request is in the kernel's hands, and the provider will see it."""

INDEX = re.compile(r"[0-9a-f]{32}\.json")
"""The output index's files; what else is renamed within a directory is an output."""

SIGNALS = {"kill": signal.SIGKILL, "kill-first": signal.SIGKILL, "stop": signal.SIGSTOP}


class Fate:
    """Strikes once, at its point."""

    def __init__(self, point: str, action: str) -> None:
        assert point in POINTS, f"there is no point {point}"
        self._point = point
        self._signal: signal.Signals | None = SIGNALS[action]
        self._at_first = action == "kill-first"
        self._armed = self._out = False

    def begin(self, generation: int) -> None:
        """Note that a token of this generation is about to be refreshed."""
        self._armed = self._armed or generation > 0 or self._at_first
        self._out = False

    def meet(self, point: str) -> None:
        """Pass a point."""
        self._out = self._out or point == OUT[0]
        # A lease that ran out before its call comes past commit and outputs too.
        come = self._armed and (self._out or self._point not in OUT)
        if come and point == self._point and self._signal is not None:
            signum, self._signal = self._signal, None
            os.kill(os.getpid(), signum)

    def around(self, cls: type, name: str, before: str, after: str) -> None:
        """Make begin and end of a method two points."""
        original = getattr(cls, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.meet(before)
            result = original(*args, **kwargs)
            self.meet(after)
            return result

        setattr(cls, name, wrapped)

    def around_async(self, cls: type, name: str, before: str, after: str) -> None:
        """Make begin and end of a coroutine method two points."""
        original = getattr(cls, name)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.meet(before)
            result = await original(*args, **kwargs)
            self.meet(after)
            return result

        setattr(cls, name, wrapped)


def lay_points_at_the_store(fate: Fate) -> None:
    """Lease, commit, and the release of the escrow that follows."""
    lease_or_note: Any = Ledger.write
    write: Any = RecordStore.write

    async def leased(ledger: Ledger, record: Any, *, lease: float = 0.0) -> None:
        if lease <= 0:
            await lease_or_note(ledger, record)
            return
        fate.begin(record.generation)
        fate.meet("before-lease")
        await lease_or_note(ledger, record, lease=lease)
        fate.meet("after-lease")

    async def written(store: RecordStore, key: str, record: Any, **options: Any) -> Any:
        version = await write(store, key, record, **options)
        if record.attempt is None:
            fate.meet("after-commit")
        return version

    replaced(Ledger, "write", leased)
    replaced(RecordStore, "write", written)
    fate.around(Slip, "release", "before-release", "after-release")


def lay_points_at_the_call(fate: Fate) -> None:
    """Room in escrow, the mark before the first byte, the wait, the answer's head, its body, and escrow again."""
    mark: Any = Slip._mark
    trace: Any = http._Call.trace

    def marked(slip: Slip, stage: Stage) -> None:
        if stage is Stage.ANSWERED:
            fate.meet("inside-escrow")
        mark(slip, stage)

    async def traced(call: http._Call, name: str, info: dict[str, Any]) -> None:
        if name == "http11.receive_response_headers.started":
            fate.meet("awaiting-answer")
        await trace(call, name, info)

    fate.around(Escrow, "arm", "before-arm", "after-arm")
    fate.around(Slip, "sent", "before-sent", "after-sent")
    fate.around_async(http._Call, "read", "before-read", "after-read")
    fate.around(Slip, "answered", "before-escrow", "after-escrow")
    replaced(http._Call, "trace", traced)
    replaced(Slip, "_mark", marked)


def lay_points_at_the_outputs(fate: Fate) -> None:
    """The index, the temporary file before it gets its name, and the end of it."""
    rename: Any = os.replace
    put: Any = FileOutput._put

    def renamed(source: Any, target: Any, **options: Any) -> None:
        if options.get("dst_dir_fd") is not None:
            fate.meet("before-index" if INDEX.fullmatch(str(target)) else "before-rename")
        rename(source, target, **options)

    def put_there(output: FileOutput, *args: Any) -> Any:
        written = put(output, *args)
        if written:
            fate.meet("after-rename")
        return written

    fate.around_async(Publisher, "publish", "before-publish", "after-publish")
    replaced(os, "replace", renamed)
    replaced(FileOutput, "_put", put_there)


def replaced(owner: Any, name: str, function: Any) -> None:
    """Put a function in another's place."""
    setattr(owner, name, function)


def no_watches_left(*_: Any, **__: Any) -> Any:
    """Fail as watchfiles does where the user's inotify watches are used up."""
    raise OSError(errno.ENOSPC, "OS file watch limit reached")


def hang_in_the_third_turn() -> None:
    """Have a turn keep its worker for ever, as one that waits without a limit would."""
    turn: Any = Renewer.turn
    turns = iter(range(3))

    async def hanging(renewer: Renewer, late: Any) -> Any:
        if next(turns, None) == 2:
            await anyio.sleep_forever()
        return await turn(renewer, late)

    replaced(Renewer, "turn", hanging)


def weigh_at_a_signal(place: Path) -> None:
    """Count what the kernel can't see: objects, memory blocks in use, and tasks."""

    def weigh(*_: object) -> None:
        gc.collect()
        held = {
            "objects": len(gc.get_objects()),
            "blocks": sys.getallocatedblocks(),
            "tasks": len(asyncio.all_tasks()),
        }
        written = place.with_suffix(".new")
        written.write_text(json.dumps(held), encoding="utf-8")
        written.replace(place)

    signal.signal(signal.SIGUSR1, weigh)


def run(path: str, point: str, argument: str) -> int:
    """Run the daemon; returns its exit code."""
    if point == "read-limit":
        replaced(app, "HttpClient", partial(http.HttpClient, read_limit=float(argument)))
    elif point == "hold":
        replaced(schedule, "IN_DOUBT_HOLD", float(argument))
    elif point == "poll":
        replaced(schedule, "QUIET_POLL", float(argument))
    elif point == "hang":
        replaced(pulse, "STALE_AFTER", float(argument))
        for module in (scheduler, watch):
            replaced(module, "TICK", float(argument) / 4)
        replaced(watch, "TIMEOUT_MS", int(float(argument) * 250))
        hang_in_the_third_turn()
    elif point == "deaf":
        replaced(watchfiles, "watch", no_watches_left)
        for module in (pulse, scheduler, watch):
            replaced(module, "TICK", float(argument))
    elif point == "weigh":
        weigh_at_a_signal(Path(argument))
    else:
        fate = Fate(point, argument)
        lay_points_at_the_store(fate)
        lay_points_at_the_call(fate)
        lay_points_at_the_outputs(fate)
    loaded = config.load(Path(path))
    log.configure(loaded.settings.log.level)
    anyio.run(app.serve, loaded)
    return 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
