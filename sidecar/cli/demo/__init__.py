"""`demo`: the real daemon against a simulated provider, watched by a reader that never looks away.

play.py is the main flow: it starts the simulator and the daemon as processes of their own, lets them live, and
ends them. reader.py is the application, verdict.py says whether the promises were kept, screen.py draws.
"""

from __future__ import annotations

from pathlib import Path

import click

from sidecar.cli.options import Span, examples

UNATTENDED = 20.0
"""Seconds that it runs without a terminal."""


@click.command(
    epilog=examples(
        ("token-sidecar demo", "a live table, until Ctrl-C"),
        ("token-sidecar demo --for 20s", "plain lines, and an end"),
        ("token-sidecar demo --ttl 1m", "tokens that live longer"),
        ("token-sidecar demo --provider xero", "a provider that behaves as Xero does"),
    )
)
@click.option(
    "--for",
    "length",
    type=Span(),
    help="Print plain lines and end after this long, such as 20s. [default: until Ctrl-C; 20s without a terminal]",
)
@click.option("--ttl", type=Span(), default="15s", show_default=True, help="How long access tokens live.")
@click.option("--provider", metavar="NAME", help="Act like this provider, as far as its profile tells.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="demo",
    show_default=True,
    help="Where configuration, store, tokens and logs go; what an earlier demo left there is replaced.",
)
def demo(length: float | None, ttl: float, provider: str | None, directory: Path) -> int:
    """See the daemon keep a token alive, against a simulated provider.

    Everything is real but the provider, which is simulated on loopback: access tokens that live for seconds, a
    refresh token that is replaced at each use, and a grant that ends when a replaced one is used again. A reader
    polls the token files all the time, as an application would.

    Exit code 1 says that a promise was broken, or that a token is dead at the end.
    """
    if length is not None and length < 1:
        raise click.BadParameter("it takes at least a second to see anything", param_hint="--for")
    if not 4 <= ttl <= 86400:  # noqa: PLR2004 - the two are said in the message
        raise click.BadParameter("between 4s and 24h", param_hint="--ttl")
    from rich.console import Console

    from sidecar.cli.demo.cast import cast
    from sidecar.cli.demo.directory import Directory
    from sidecar.cli.demo.play import Play
    from sidecar.cli.demo.screen import Lines, Table

    played = cast(provider, ttl)

    console = Console(highlight=False, markup=False)
    alive = length is None and console.is_terminal and not console.is_dumb_terminal
    if length is None and not alive:
        length = UNATTENDED
    with Directory(directory) as place, Table(console) if alive else Lines(console) as screen:
        verdict = Play(place, played, screen).run(length)
    return 0 if verdict.well else 1
