"""Notices changed files: seeds, client credentials, the configuration, and outputs that somebody touched.

The kernel's notifications say "look now"; what changed is found by comparing what `stat` tells, which is also
done at every tick of the house. So a swap of `..data` symlinks that inotify shows as something else, a network
volume that it does not show at all, and a watch that could not be had cost time and nothing more. Only a file
that came and went between two looks is known from the notification alone.

Directories are watched, never files: a file that is replaced takes its watch with it into the dark.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.lowlevel
import watchfiles

from sidecar.events import Warned
from sidecar.pulse import TICK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.lowlevel import EventLoopToken

    from sidecar.clock import Clock
    from sidecar.events import Event
    from sidecar.pulse import Heartbeats, Pulse

STEP_MS = 1000
"""How often the watching thread looks at what the kernel collected: its only wake-ups, one a second."""

TIMEOUT_MS = 60_000
"""How often it shows that it is alive."""

HEARTBEAT = "watcher"

Signature = tuple[int, ...] | None
"""What `stat` tells of a file; None: there is none."""


def signature(path: Path) -> Signature:
    """Tell files apart that differ in content, without reading them."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_mode


class Watcher:
    """Calls back when one of many files has changed."""

    def __init__(
        self, clock: Clock, heartbeats: Heartbeats, pulse: Pulse, emit: Callable[[Event], None]
    ) -> None:
        """Watch nothing yet."""
        self._clock = clock
        self._heartbeats = heartbeats
        self._pulse = pulse
        self._emit = emit
        self._interests: dict[Path, Callable[[], None]] = {}
        self._seen: dict[Path, Signature] = {}
        self._directories: set[Path] = set()
        self._touched: set[Path] = set()
        self._bell = anyio.Event()
        self._stop = threading.Event()
        heartbeats.expect(HEARTBEAT)

    def watch(self, interests: Mapping[Path, Callable[[], None]]) -> None:
        """Watch these files from now on, and no others. A callback may be called without need, never too late."""
        self._interests = dict(interests)
        self._seen = {path: self._seen.get(path, signature(path)) for path in interests}
        self._bell.set()

    async def run(self) -> None:
        """Watch for ever."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ring_at_pulses)
                while True:
                    self._restart_thread()
                    await self._bell.wait()
                    self._bell = anyio.Event()
                    self._look()
        finally:
            self._stop.set()

    async def _ring_at_pulses(self) -> None:
        rung = self._clock.boot()
        while True:
            await self._pulse.wait()
            if self._clock.boot() - rung >= TICK - 1:
                rung = self._clock.boot()
                self._bell.set()

    def _hear(self, paths: set[Path]) -> None:
        self._touched |= paths
        self._bell.set()

    def _look(self) -> None:
        # A file that came and went between two looks leaves no other trace.
        touched, self._touched = self._touched, set()
        for path, changed in list(self._interests.items()):
            now = signature(path)
            if now != self._seen.get(path) or path in touched:
                self._seen[path] = now
                changed()

    def _restart_thread(self) -> None:
        """Follow the set of directories; a daemon thread, so that nobody has to wait for its step at exit."""
        directories = {path.parent for path in self._interests if path.parent.is_dir()}
        if not directories:
            self._heartbeats.forget(HEARTBEAT)
        if directories == self._directories:
            return
        self._stop.set()
        self._stop, self._directories = threading.Event(), directories
        if directories:
            arguments = (sorted(directories), self._stop, anyio.lowlevel.current_token())
            threading.Thread(target=self._listen, args=arguments, name=HEARTBEAT, daemon=True).start()

    def _listen(self, directories: list[Path], stop: threading.Event, token: EventLoopToken) -> None:
        """Pass on, from the thread, that something happened; stamp from here, since this is what might hang."""
        self._heartbeats.stamp(HEARTBEAT)
        try:
            for changes in watchfiles.watch(
                *directories,
                watch_filter=None,
                debounce=STEP_MS,
                step=STEP_MS,
                rust_timeout=TIMEOUT_MS,
                yield_on_timeout=True,
                stop_event=stop,
                raise_interrupt=False,
                recursive=False,
                ignore_permission_denied=True,
            ):
                self._heartbeats.stamp(HEARTBEAT)
                if changes:
                    anyio.from_thread.run_sync(self._hear, {Path(path) for _, path in changes}, token=token)
        except (OSError, RuntimeError) as error:
            self._heartbeats.forget(HEARTBEAT)
            if not stop.is_set():
                reason = f"files are only polled every {TICK:.0f} s, because watching failed: {error}"
                anyio.from_thread.run_sync(self._emit, Warned("watcher", reason), token=token)
