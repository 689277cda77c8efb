"""The demo for people: a live table on a terminal, or plain lines, one a second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from sidecar.cli.demo.verdict import Verdict

WIDE, NARROW = 20, 10
"""Characters of a bar: in the table, and in lines."""
ROOMY = 100
"""Columns of a terminal that has room for wide bars."""
RECENT = 6
"""Events that stay on the screen."""

STARTING = "starting"
"""Stands in for a grant's state until the daemon tells it."""

GOOD, BAD, PLAIN = "green", "bold red", ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened; `mood` is one of the styles above."""

    at: float
    """Seconds since the demo began."""
    text: str
    mood: str = PLAIN


@dataclass(frozen=True, slots=True)
class OutputRow:
    """One file of a token."""

    file: str
    state: str
    mood: str


@dataclass(frozen=True, slots=True)
class Row:
    """One token."""

    token: str
    grant: str
    state: str
    """The grant's; empty while it is ok."""
    left: float | None
    """Seconds, as a reader of its files has them; None: no file holds one."""
    scarce: float
    """Seconds below which the daemon has broken its promise."""
    generation: int
    refreshed: float | None
    """Seconds since the last refresh."""
    outputs: tuple[OutputRow, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is shown at one moment."""

    elapsed: float
    ttl: float
    rows: tuple[Row, ...]
    footer: tuple[tuple[str, str, str], ...]
    """What, how it is doing, and the style."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What is said once, at the start."""

    text: str
    hints: tuple[tuple[str, str], ...]
    """What it shows, and the command."""


class Screen(Protocol):
    """Where the demo is shown."""

    def introduce(self, introduction: Introduction) -> None:
        """Say what this is, and what can be tried."""
        ...

    def show(self, scene: Scene) -> None:
        """Show the present moment; called several times a second."""
        ...

    def tell(self, event: Event) -> None:
        """Show an event."""
        ...

    def conclude(self, verdict: Verdict, seconds: float) -> None:
        """Print the summary, below everything else."""
        ...


class _Base:
    def __init__(self, console: Console) -> None:
        self._console = console
        # A terminal that knows no block characters shows question marks.
        self._bar = "█░" if console.encoding.startswith("utf") else "#."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def introduce(self, introduction: Introduction) -> None:
        self._say(f"\n{introduction.text}\n")
        self._say("Try in another terminal:")
        for meaning, command in introduction.hints:
            self._say(f"  # {meaning}", "dim")
            self._say(f"  {command}")
        self._say("")

    def conclude(self, verdict: Verdict, seconds: float) -> None:
        self._say(f"\nAfter {seconds:.0f} s:")
        for label, text in verdict.rows:
            self._say(f"  {label:<22} {text}")
        for cause in verdict.told:
            self._say(f"  {'broken on purpose':<22} {cause}", "yellow")
        for dead in verdict.dead:
            self._say(f"  {dead}; that was you", "yellow")
        for promise in verdict.broken:
            self._say(f"  BROKEN PROMISE: {promise}", BAD)
        if verdict.well:
            self._say("Every promise was kept.", GOOD)
        elif not verdict.broken:
            self._say("Every promise was kept, but a human must act: a dead token stays dead.", "yellow")

    def _say(self, text: str, style: str = PLAIN) -> None:
        # Not wrapped: what is copied from a terminal then has no line breaks of ours.
        self._console.print(Text(text, style), soft_wrap=True)

    def _filled(self, left: float | None, ttl: float, width: int) -> tuple[str, str]:
        filled = round(width * min(1.0, max(0.0, (left or 0.0) / ttl)))
        return self._bar[0] * filled, self._bar[1] * (width - filled)


class Lines(_Base):
    """For files, pipes and continuous integration: one line a second, and one for each event."""

    _second = -1

    def show(self, scene: Scene) -> None:
        if int(scene.elapsed) == self._second:
            return
        self._second = int(scene.elapsed)
        tokens = "   ".join(self._line(row, scene.ttl) for row in scene.rows)
        self._say(f"{self._second:4d} s  {tokens}")

    def tell(self, event: Event) -> None:
        self._say(f"{int(event.at):4d} s  * {event.text}")

    def _line(self, row: Row, ttl: float) -> str:
        bar = "".join(self._filled(row.left, ttl, NARROW))
        left = "   -  " if row.left is None else f"{max(0.0, row.left):4.1f} s"
        problems = dict.fromkeys(output.state for output in row.outputs if output.mood == BAD)
        state = ", ".join(filter(None, (row.state, *problems))) or "ok"
        return f"{row.token} {bar} {left} gen {row.generation} {state}"


class Table(_Base):
    """For a terminal."""

    def __init__(self, console: Console) -> None:
        """Draw nothing yet."""
        super().__init__(console)
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._events: deque[Event] = deque(maxlen=RECENT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, scene: Scene) -> None:
        if not self._live.is_started:
            self._live.start()
        self._live.update(Group(self._tokens(scene), self._footer(scene), self._recent()), refresh=True)

    def tell(self, event: Event) -> None:
        self._events.append(event)

    def conclude(self, verdict: Verdict, seconds: float) -> None:
        self._live.stop()
        super().conclude(verdict, seconds)

    def _tokens(self, scene: Scene) -> Grid:
        grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
        for title in ("token", "a reader has", "gen", "refreshed", "outputs"):
            grid.add_column(title, no_wrap=True)
        for row in scene.rows:
            name = Text.assemble(
                (row.token, "bold"),
                "\n",
                (row.state or row.grant, BAD if row.state not in ("", STARTING) else "dim"),
            )
            refreshed = "-" if row.refreshed is None else f"{row.refreshed:.0f} s ago"
            outputs = Text("\n").join(map(_output, row.outputs))
            grid.add_row(name, self._time(row, scene.ttl), str(row.generation), refreshed, outputs)
        return grid

    def _time(self, row: Row, ttl: float) -> Text:
        full, rest = self._filled(row.left, ttl, WIDE if self._console.width >= ROOMY else NARROW)
        if row.left is None:
            return Text.assemble((rest, "dim"), " no token")
        style = "green" if row.left >= row.scarce else "yellow" if row.left > 0 else "red"
        left = f" {row.left:4.1f} s" if row.left > 0 else " expired"
        return Text.assemble((full, style), (rest, "dim"), (left, style))

    def _footer(self, scene: Scene) -> Grid:
        grid = Grid.grid(padding=(0, 2))
        for what, how, mood in scene.footer:
            grid.add_row(Text(what, "dim"), Text(how, mood))
        return grid

    def _recent(self) -> Padding:
        lines = [Text(f"{event.at:4.0f} s  {event.text}", event.mood) for event in self._events]
        return Padding(Group(*lines, Text("Ctrl-C ends the demo.", "dim")), (1, 0, 0, 0))


def _output(output: OutputRow) -> Text:
    return Text.assemble(output.file.removeprefix("tokens/"), " ", (output.state, output.mood))
