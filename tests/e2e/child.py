"""A daemon with something that happens to it at a certain point of the way from load to publish.

`child.py CONFIG POINT ACTION` runs it; `ACTION` is `kill` (SIGKILL) or `stop` (SIGSTOP), done once, by the
process to itself, when it refreshes a token that has been refreshed before; `kill-first` doesn't wait for that.
`child.py CONFIG read-limit SECONDS`
runs it with less patience with an answer.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from sidecar import app, config
from sidecar.clients import http
from sidecar.escrow import Escrow, Slip
from sidecar.ledger import Ledger
from sidecar.observers import log
from sidecar.outputs.file import FileOutput
from sidecar.publisher import Publisher
from sidecar.stores.sqlite import SqliteStore
from sidecar.tokens import Record

INDEX = re.compile(r"[0-9a-f]{32}\.json")
"""The output index's files; what else is renamed within a directory is an output."""

SIGNALS = {"kill": signal.SIGKILL, "kill-first": signal.SIGKILL, "stop": signal.SIGSTOP}


class Fate:
    """Strikes once, at its point."""

    def __init__(self, point: str, action: str) -> None:
        self._point = point
        self._signal: signal.Signals | None = SIGNALS[action]
        self.at_first = action == "kill-first"
        self.armed = False

    def meet(self, point: str) -> None:
        """Pass a point."""
        if self.armed and point == self._point and self._signal is not None:
            signum, self._signal = self._signal, None
            os.kill(os.getpid(), signum)

    def around(self, cls: type, name: str, before: str, after: str) -> None:
        """Make a method's begin and end two points."""
        original = getattr(cls, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.meet(before)
            result = original(*args, **kwargs)
            self.meet(after)
            return result

        setattr(cls, name, wrapped)

    def around_async(self, cls: type, name: str, before: str, after: str) -> None:
        """Do the same to a coroutine method."""
        original = getattr(cls, name)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.meet(before)
            result = await original(*args, **kwargs)
            self.meet(after)
            return result

        setattr(cls, name, wrapped)


def install(fate: Fate) -> None:
    """Lay the points, in the order in which they are passed."""
    write: Callable[..., Any] = Ledger.write

    async def leased(ledger: Ledger, record: Record, *, lease: float = 0.0) -> None:
        if lease > 0 and (record.generation > 0 or fate.at_first):
            fate.armed = True
        if lease > 0:
            fate.meet("before-lease")
        await write(ledger, record, lease=lease)
        if lease > 0:
            fate.meet("after-lease")

    Ledger.write = leased  # type: ignore[method-assign]
    fate.around(Escrow, "arm", "before-arm", "after-arm")
    fate.around(Slip, "sent", "before-sent", "after-sent")
    fate.around_async(http._Call, "read", "before-read", "after-read")
    fate.around(Slip, "answered", "before-escrow", "after-escrow")
    mark = Slip._mark

    def marked(slip: Slip, stage: Any) -> None:
        if stage == "R":
            fate.meet("inside-escrow")
        mark(slip, stage)

    Slip._mark = marked  # type: ignore[method-assign]
    fate.around_async(Ledger, "settle", "before-settle", "after-settle")
    store_write: Callable[..., Any] = SqliteStore.write

    async def committed(store: SqliteStore, key: str, record: Record, **options: Any) -> str:
        version: str = await store_write(store, key, record, **options)
        if record.attempt is None:
            fate.meet("after-commit")
        return version

    SqliteStore.write = committed  # type: ignore[method-assign]
    fate.around(Slip, "release", "before-release", "after-release")
    fate.around_async(Publisher, "publish", "before-publish", "after-publish")
    replace = os.replace

    def replaced(source: Any, target: Any, **options: Any) -> None:
        if options.get("dst_dir_fd") is not None:
            fate.meet("before-index" if INDEX.fullmatch(str(target)) else "before-rename")
        replace(source, target, **options)

    os.replace = replaced
    put: Callable[..., bool] = FileOutput._put

    def done(output: FileOutput, *args: Any) -> bool:
        written = put(output, *args)
        if written:
            fate.meet("after-rename")
        return written

    FileOutput._put = done  # type: ignore[method-assign]


def main() -> None:
    """Run the daemon."""
    path, point, argument = sys.argv[1:]
    if point == "read-limit":
        app.HttpClient = partial(http.HttpClient, read_limit=float(argument))  # type: ignore[misc,assignment]
    else:
        install(Fate(point, argument))
    loaded = config.load(Path(path))
    log.configure("debug")
    anyio.run(app.serve, loaded)


if __name__ == "__main__":
    main()
