"""`run`: the daemon itself, and its short form for init containers."""

from __future__ import annotations

from pathlib import Path

import click

from sidecar.cli.options import Span, config_option, examples


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
    as does a change of the file.

    With --once it is an init container: exit code 3 says that a human must consent first, 4 that the time
    was up.
    """
    if wait is not None and not once:
        raise click.UsageError("--wait goes with --once")
    import signal
    import sys
    from functools import partial

    # As the first process of a container, it would not be stopped at all before it has a handler of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1 if once else 0))

    import anyio

    from sidecar import app, contents
    from sidecar import config as configuration
    from sidecar.observers import log

    loaded = configuration.load(config, also=contents.check)
    log.configure(loaded.settings.log.level, loaded.settings.log.format)
    sys.excepthook = log.log_uncaught
    anyio.run(partial(app.run_once, loaded, wait=wait) if once else partial(app.serve, loaded))
