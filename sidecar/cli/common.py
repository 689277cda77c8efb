"""What the commands' bodies share: the configuration, the records, bytes from files, words for times."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.errors import UsageError
from sidecar.files import open_traceless

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from sidecar.config import Settings
    from sidecar.ports import Held, Store
    from sidecar.server.client import ControlClient

INPUT_LIMIT = 1 << 20
"""Bytes; nothing that holds a token is larger."""


STYLES = {
    **dict.fromkeys(("fresh", "ok", "valid"), "green"),
    **dict.fromkeys(("stale", "retrying", "in_doubt", "unpersisted", "warning"), "yellow"),
    **dict.fromkeys(
        ("expired", "absent", "unseeded", "misconfigured", "dead", "unreadable", "failed"), "bold red"
    ),
    "skipped": "dim",
}
"""A state's colour on a terminal; the word is always there too."""


def load(path: Path, *, token: str | None = None) -> Settings:
    """Load a configuration for a command that works beside the daemon.

    Whether this user may read seeds and write outputs is the daemon's business, and not looked at. Raises
    `ConfigError`, and `UnknownToken` if there is no `token` of this name.
    """
    from sidecar import config

    settings = config.load(path, disk=False).settings
    if settings.store.url_file is not None:
        settings = config.load(path).settings
    return settings if token is None else only(settings, token)


def only(settings: Settings, token: str) -> Settings:
    """Leave out all other tokens; a member of a set is as good as a plain one then. Raises `UnknownToken`."""
    return settings.only(token)


def control(settings: Settings) -> ControlClient:
    """Make the client of the daemon's control socket; nothing is opened yet."""
    from sidecar.server.client import ControlClient
    from sidecar.server.wire import SOCKET_FILE

    return ControlClient(settings.state_dir / SOCKET_FILE)


def key_of(settings: Settings, name: str) -> str:
    """Return a token's key in the store; another name with a slash is one already."""
    of = name.partition("/")[0]
    return (
        settings.key_of(name) if "/" not in name or name in settings.tokens or of in settings.sets else name
    )


def open_existing(settings: Settings) -> AbstractAsyncContextManager[Store | None]:
    """Open the store; see `records.open_existing`."""
    from sidecar import records

    return records.open_existing(settings)


def make_store(settings: Settings, *, create: bool = True) -> Store:
    """Make the store; see `records.make_store`."""
    from sidecar import records

    return records.make_store(settings, create=create)


def read_record(settings: Settings, name: str) -> Held | None:
    """Read one token's record from the store, whether or not a daemon runs. Raises `StoreError`."""
    import anyio

    async def read() -> Held | None:
        async with open_existing(settings) as store:
            return await store.load(key_of(settings, name)) if store is not None else None

    return anyio.run(read)


def read_input(path: str) -> tuple[bytes, str, float]:
    """Read a file, or standard input for `-`: the bytes, its name, and when it was written (Unix time).

    Raises `UsageError` for what is empty or far too large, and `OSError`.
    """
    import time

    if path == "-":
        data, where, written = sys.stdin.buffer.read(INPUT_LIMIT + 1), "standard input", time.time()
    else:
        data, where, written = _read_file(Path(path))
    if len(data) > INPUT_LIMIT:
        raise UsageError(f"{where} is larger than {INPUT_LIMIT >> 20} MiB; is it the right file?")
    if not data.strip():
        raise UsageError(f"{where} is empty")
    return data, where, written


def _read_file(path: Path) -> tuple[bytes, str, float]:
    try:
        # It may be an output: of that, nobody else's reading is to be seen than the application's.
        with open(path, "rb", opener=lambda file, flags: open_traceless(file, flags)[0]) as file:
            return file.read(INPUT_LIMIT + 1), str(path), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        from sidecar.config.report import looks_secret

        if looks_secret(str(path)):
            raise UsageError(
                "a file is wanted where this looks like a token itself; give the file that holds it, or - and the "
                "token on standard input: arguments can be seen by every user of this machine"
            ) from None
        raise


def print_json(document: Any) -> None:
    """Print a document for machines."""
    click.echo(json.dumps(document, indent=2))


def on_terminal() -> bool:
    """Tell whether a human looks at what is printed."""
    return sys.stdout.isatty()


def is_graphical() -> bool:
    """Tell whether there may be a browser here that doesn't take the terminal over."""
    return sys.platform != "linux" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )


def open_browser(url: str) -> None:
    """Open a browser, which may load the page from this very process."""
    import threading
    import webbrowser

    # Some return when the window is closed.
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def span(seconds: float) -> str:
    """Write a duration in words: its two largest units."""
    whole = int(abs(seconds))
    sign = "-" if seconds < 0 and whole else ""
    for size, unit, next_size, next_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // next_size
            return f"{sign}{whole // size}{unit}" + (f"{rest:02d}{next_unit}" if rest else "")
    return f"{sign}{whole}s" if whole or not seconds else f"{seconds:.2g}s"


def plain_table(rows: Iterable[Iterable[str]]) -> str:
    """Align columns with spaces, for pipes and files."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def show_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a table: drawn on a terminal, aligned with spaces elsewhere."""
    if not on_terminal():
        click.echo(plain_table([head, *rows]))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)
