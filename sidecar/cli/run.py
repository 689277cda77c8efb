"""`run`: the daemon itself, and its short form for init containers."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli.options import Span, config_option, examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config import Loaded, Settings


@click.command(
    epilog=examples(
        ("token-sidecar run", "the daemon"),
        ("token-sidecar run -c tokens.yaml", "with a configuration of your own"),
        ("token-sidecar run --once --wait 2m", "fetch what is needed, then exit"),
    )
)
@config_option
@click.option("--once", is_flag=True, help="Exit 0 as soon as every required output holds a valid token.")
@click.option(
    "--wait", type=Span(), help="With --once: give up after this long, such as 5m. [default: never]"
)
def run(config: Path, *, once: bool, wait: float | None) -> None:
    """Keep every token fresh until stopped.

    It refreshes each token ahead of its expiry, commits every rotated refresh token to the store before
    anybody uses it, and replaces the output files atomically. The log goes to standard error. SIGTERM
    ends it, after an answer that is under way was caught; SIGHUP makes it read the configuration again,
    as does a change of the file. While a command or the console has its state_dir, it waits, up to five
    and a half minutes.

    With --once it is an init container, or a cron job: exit code 3 says that a human must consent first, 4
    that the time was up. Where a daemon runs already, or another --once, its work is waited for.
    """
    if wait is not None and not once:
        raise click.UsageError("--wait goes with --once")
    import signal

    # As the first process of a container, it would not be stopped at all before it has a handler of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1 if once else 0))

    with _lean():
        import anyio

        from sidecar import app, contents
        from sidecar import config as configuration
        from sidecar.observers import log

        loaded = configuration.load(config, also=contents.check)
    log.configure(loaded.settings.log.level, loaded.settings.log.format)
    sys.excepthook = log.log_uncaught
    if once:
        _once(loaded, wait)
    else:
        anyio.run(app.serve, loaded)


@contextmanager
def _lean() -> Iterator[None]:
    """Import without what every pod would pay for and none would use.

    structlog imports rich where it finds it, for tracebacks that the log has its own way of writing (4 MiB); None is
    how Python is told that there is none. And nearly all that a start makes stays: looking for garbage among it, then
    and in each full collection afterwards, is time for nothing.
    """
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if hidden:
            del sys.modules["rich"]


def _once(loaded: Loaded, wait: float | None) -> None:
    """Do it here, or wait for whoever is at it. Raises what `app.run_once` raises."""
    import math
    import time

    import anyio
    import anyio.to_thread

    from sidecar import app
    from sidecar.errors import InstanceRunning, TemporarilyUnavailable

    until = time.monotonic() + (math.inf if wait is None else wait)

    def left() -> float:
        return max(until - time.monotonic(), 0.0)

    async def here() -> None:
        await app.run_once(loaded, wait=None if wait is None else left())

    async def there() -> None:
        while problem := await anyio.to_thread.run_sync(_daemons_problem, loaded.settings):
            if not left():
                raise TemporarilyUnavailable(problem)
            await anyio.sleep(app.POLL)

    async def work() -> None:
        await app.in_turn(here, there, _told_in_log, patience=left())

    try:
        anyio.run(work)
    except InstanceRunning as running:
        raise TemporarilyUnavailable(str(running)) from None


def _told_in_log(reason: str) -> None:
    import structlog

    structlog.get_logger("sidecar").info(reason)


def _daemons_problem(settings: Settings) -> str:
    """Say what a running daemon's tokens lack; empty: nothing. Raises `HumanNeeded`, and `NotRunning` without one."""
    import time

    from sidecar import app
    from sidecar.cli import common
    from sidecar.cli.status import views_of
    from sidecar.errors import HumanNeeded
    from sidecar.server import health

    views = views_of(common.control(settings).status())
    problem = "\n".join(health.startupz(views, now=time.time()).reasons)
    if problem and app.is_hopeless(views):
        raise HumanNeeded(problem)
    return problem
