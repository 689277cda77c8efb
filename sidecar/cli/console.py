"""`console`: a web page to look at tokens and to consent again with one click."""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.console.door import Door

_NEEDED = ("itsdangerous", "jinja2")
_PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0; url={0}">
<title>token-sidecar</title><a href="{0}">Open the console</a>
"""
_PAGE_FILE = "console.html"


@click.command(
    epilog=examples(
        ("token-sidecar console", "on this machine: opens a browser, or prints a link that works once"),
        ("token-sidecar console --link", "another link for the console that runs"),
        ("ssh -L 9641:127.0.0.1:9641 HOST", "from elsewhere, then open the link here"),
    )
)
@click.option(
    "--link", "only_link", is_flag=True, help="Print a new link for the console that runs, and exit."
)
@click.option("--no-browser", is_flag=True, help="Open none.")
@config_option
def console(config: Path, *, only_link: bool, no_browser: bool) -> None:
    """Serve a web page to look at tokens and to consent again.

    It shows every token of the configuration with its deadlines, has a button that leads to the provider's
    consent page and stores what comes back, refreshes now, and revokes. It acts through the daemon that runs
    on this state_dir, else in its place, under its lock; nothing else is needed of it than the same
    configuration and the same store.

    Without a proxy that signs people in (`console.proxy`) it listens on this machine alone, and lets in whoever
    opens the link that it prints: once, and within ten minutes. SIGTERM ends it, after a consent that is
    on its way to the store.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the console needs {' and '.join(missing)}; install the extra: pip install 'token-sidecar[console]'"
        )
    from sidecar.console import door, serve

    loaded = serve.load(config)
    if only_link:
        click.echo(door.find(loaded.settings.state_dir).link())
        return
    import anyio

    from sidecar.observers import log

    log.configure(loaded.settings.log.level, loaded.settings.log.format)
    sys.excepthook = log.log_uncaught
    page = loaded.settings.state_dir / _PAGE_FILE
    try:
        anyio.run(serve.serve, loaded, partial(_announce, None if no_browser else page))
    finally:
        page.unlink(missing_ok=True)


def _announce(page: Path | None, way_in: Door | None) -> None:
    if way_in is None:
        return
    link = way_in.link()
    click.echo(f"Open this on this machine, within ten minutes; it works once:\n\n  {link}\n", err=True)
    if page is None or not common.is_graphical():
        return
    # What a browser is started with can be seen by every user of this machine, and a file of ours can't.
    page.unlink(missing_ok=True)
    page.touch(mode=0o600, exist_ok=False)
    page.write_text(_PAGE.format(way_in.link()), encoding="utf-8")
    common.open_browser(page.as_uri())
