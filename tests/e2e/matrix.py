"""The crash matrix: what can become of a grant whose daemon is killed, and the page that tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

STORES = ("SQLite", "Postgres", "Kubernetes")
RESTARTS = ("in place", "elsewhere")
PROVIDERS = ("grace", "no grace")


class Point(NamedTuple):
    """A moment of the way."""

    words: str
    window: str = ""
    """Of those in rotation.md, the one to which a loss at this point belongs."""


POINTS = {
    "before-lease": Point("it has decided to refresh, and written nothing"),
    "after-lease": Point("the store has lease and intent"),
    "before-arm": Point("room in escrow is about to be taken"),
    "after-arm": Point("room in escrow is taken"),
    "before-sent": Point("the connection stands, and the gate lets the request pass"),
    "after-sent": Point("escrow says that the request leaves now, and no byte of it has left"),
    "awaiting-answer": Point("the request is out, and no byte of the answer is in", "W1"),
    "before-read": Point("the head of the answer has come", "W1"),
    "after-read": Point("the whole answer is in memory", "W2"),
    "before-escrow": Point("it is about to be written to escrow", "W2"),
    "inside-escrow": Point("it is written there, and the byte that vouches for it is not", "W2"),
    "after-escrow": Point("escrow has the answer", "W3"),
    "after-commit": Point("the store has the new pair"),
    "before-release": Point("the entry in escrow is about to be removed"),
    "after-release": Point("the entry is removed"),
    "before-publish": Point("the new token is about to be published"),
    "before-index": Point("the outputs' index is about to be written"),
    "before-rename": Point("the new file is written, and has its temporary name"),
    "after-rename": Point("the new file is in place"),
    "after-publish": Point("all is done"),
}
"""In the order of the way; the labels are those of `child.py`."""


class Column(NamedTuple):
    """The surroundings of a death."""

    restart: str
    provider: str


COLUMNS = [Column(restart, provider) for restart in RESTARTS for provider in PROVIDERS]


class Cell(NamedTuple):
    """One combination."""

    point: str
    store: str
    column: Column


CELLS = [Cell(point, store, column) for column in COLUMNS for point in POINTS for store in STORES]

AT_THE_STORE = ("before-lease", "after-lease", "after-escrow", "after-commit")
"""On both sides of the store's two writes. Between them, what it holds is what these two left there."""


def is_chosen(cell: Cell) -> bool:
    """Tell whether a short run has it: each point in all surroundings, on each store at the store, else in turn."""
    turn = list(POINTS).index(cell.point) + COLUMNS.index(cell.column)
    return cell.point in AT_THE_STORE or STORES.index(cell.store) == turn % len(STORES)


CHOSEN = [cell for cell in CELLS if is_chosen(cell)]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was measured in one cell."""

    store: str
    """What the store held at the death: `old` pair, `intent` or `new` pair."""
    escrow: str
    """How far the entry in escrow had come: `none`, `armed`, `sent` or `answered`."""
    used: bool
    """At the death, or when its last request had been processed, the provider had replaced the refresh token."""
    doubted: bool
    """The next daemon said `in_doubt`."""
    resent: str
    """When the next daemon sent that refresh token: `never`, `at once`, or `late`, after the wait that is due."""
    calls: int
    """How often the provider was sent it in all."""
    replays: int
    """How many uses of replaced refresh tokens the provider saw, of this one or any other."""
    lived: bool
    """The refresh token that came next was used in turn; else the provider has ended it all, and the record says so."""


class Claim(NamedTuple):
    """What the page says of one cell."""

    store: str
    """What the store may hold at the death, joined by `or`; see `Facts`."""
    escrow: str
    outcome: str
    """Of `OUTCOMES`, with the window that a loss belongs to."""

    def fits(self, other: Claim) -> bool:
        """Tell whether what was found in the cell, `other`, is among what this one says."""
        return (
            other.store in self.store.split(EITHER)
            and other.escrow in self.escrow.split(EITHER)
            and other.outcome == self.outcome
        )


EITHER = " or "

OUTCOMES = {
    "unused": "The refresh token had not left, and the next daemon knows that: it uses it when a refresh is due. "
    "One call.",
    "kept": "The provider had replaced the refresh token. The next daemon has the new pair, from escrow or from the "
    "store, and makes no call for it. One call.",
    "resent": "In doubt. The next daemon sends the refresh token at once, within the grace, and has a living pair. "
    "One call, or two if the first had been processed.",
    "late": "In doubt. The next daemon waits (see below), and then sends the refresh token. It had not been used "
    "after all: the grant lives. One call.",
    "**lost**": "In doubt, and waits like *late*. But the refresh token had been replaced, and the new pair is "
    "nowhere: the second call is refused, and the provider ends what came from the consent. The grant is dead, and a "
    "human has to consent again. The window it belongs to is named.",
}


def outcome_of(facts: Facts) -> str:
    """Name the outcome that every fact fits; what fits none is told as it is."""
    match facts:
        case Facts(used=False, doubted=False, resent="at once" | "late", calls=1, replays=0, lived=True):
            return "unused"
        case Facts(used=True, doubted=False, resent="never", calls=1, replays=0, lived=True):
            return "kept"
        case Facts(used=used, doubted=True, resent="at once", calls=calls, replays=replays, lived=True) if (
            calls - 1 == replays == used
        ):
            return "resent"
        case Facts(used=False, doubted=True, resent="late", calls=1, replays=0, lived=True):
            return "late"
        case Facts(used=True, doubted=True, resent="late", calls=2, replays=1, lived=False):
            return "**lost**"
        case _:
            return str(facts)


def claim(cell: Cell, facts: Facts) -> Claim:
    """Say it as the page does."""
    outcome, window = outcome_of(facts), POINTS[cell.point].window
    return Claim(facts.store, facts.escrow, f"{outcome} {window}" if outcome == "**lost**" else outcome)


INTRODUCTION = f"""\
# Crash matrix

<!-- Written by `make crash-matrix`; `make test` runs {len(CHOSEN)} of its cells and compares, `make soak` all. -->

What becomes of a grant when its daemon dies? Here a real daemon was killed with SIGKILL at each step of a refresh,
with its record in a real SQLite file, in a real PostgreSQL server, and in a Secret of a Kubernetes API server. (That
one is a fake, which is asked the same questions as a real one: `tests/kube`.) A real next daemon was started, and
watched until it had used the refresh token that comes next, or the grant was dead. The provider is the
[simulator](simulator.md). It rotates, and ends the whole grant when a refresh token that it has replaced is used
again (reuse detection).

`make crash-matrix` runs it again and writes this page. `make soak` runs it too, every cell, and fails if one comes out
otherwise than it is written here. `make test` does so with {len(CHOSEN)} of the {len(CELLS)} cells: each step in all
four surroundings, on one of the stores in turn, or on all of them where the store has just been written, or is about
to be. What the steps are for is told in [rotation](../explanation/rotation.md).

## What can happen

| Outcome | What it is |
|---|---|
"""

SURROUNDINGS = """
**In place**: the next daemon has the `state_dir` of the dead one, as a restarted container has. **Elsewhere**: it
has an empty one, as another pod has, and only the store is the same. **Grace**: the provider takes a replaced refresh
token for a while longer, and the profile says so (`in_doubt: replay_window`). **No grace**: it doesn't (`no_replay`,
the default).

Whoever is in doubt waits, because a wrong guess ends the grant, and the access token lives on until then:

- in place, until the access token is about to expire. Readers have a valid one until then;
- elsewhere, until it has expired and the record was watched for six minutes without being written. Readers have no
  valid token in between.

So that nobody has to wait for hours, the matrix takes six seconds in place of the six minutes. *Resent* stands for a
next daemon that comes while the grace lasts (elsewhere: while three quarters of it last, and once the dead one's lease
has ended); one that comes later waits as without a grace.

## The matrix
"""

READING = """
## How to read it

A death loses the grant only between the moment in which the provider replaces the refresh token and the one in which
the new pair is safe: no client can close that gap. Its parts are the
[windows](../explanation/rotation.md#the-windows) W1 to W3. For a restart in place it ends with the write to escrow,
about a millisecond after the answer came; for one elsewhere with the commit to the store, some milliseconds later.
So keep `state_dir` on a volume that outlives the container, as the pod's `emptyDir` does. A provider with a grace
closes the gap either way.

At every other moment nothing is lost, and the provider gets each refresh token once.
"""


def render(claims: Mapping[Cell, Claim]) -> str:
    """Write the page."""
    outcomes = "\n".join(f"| {name} | {words} |" for name, words in OUTCOMES.items())
    stores = " and ".join([", ".join(STORES[:-1]), STORES[-1]])
    head = ["Killed at", "When", "Store has", "Escrow has", *(", ".join(column) for column in COLUMNS)]
    rows = [row(point, claims) for point in POINTS]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])
    count = f"\n{len(claims)} cells. Where one word stands, {stores} came to the same.\n\n"
    return f"{INTRODUCTION}{outcomes}\n{SURROUNDINGS}{count}{table}\n{READING}"


def row(point: str, claims: Mapping[Cell, Claim]) -> list[str]:
    """Write one point's row."""
    here = [claimed for cell, claimed in claims.items() if cell.point == point]
    left = [either(claimed.store for claimed in here), either(claimed.escrow for claimed in here)]
    return [f"`{point}`", POINTS[point].words, *left, *(judged(point, column, claims) for column in COLUMNS)]


def judged(point: str, column: Column, claims: Mapping[Cell, Claim]) -> str:
    """Write what the stores came to: one word if it is the same."""
    by_store = {store: claims[Cell(point, store, column)].outcome for store in STORES}
    if len(set(by_store.values())) == 1:
        return by_store[STORES[0]]
    return "; ".join(f"{store}: {outcome}" for store, outcome in by_store.items())


def either(values: Iterable[str]) -> str:
    """Join what should be one value."""
    return EITHER.join(sorted({one for value in values for one in value.split(EITHER)}))


def read(page: str) -> dict[Cell, Claim]:
    """Read back what `render` wrote."""
    claims = {}
    for line in page.splitlines():
        point, _, *said = (text.strip() for text in line.strip("|").split("|")) if "|" in line else ("", "")
        if (point := point.strip("`")) in POINTS:
            store, escrow, *outcomes = said
            for column, text in zip(COLUMNS, outcomes, strict=True):
                by_store = dict(part.split(": ") for part in text.split("; ")) if ": " in text else {}
                for name in STORES:
                    claims[Cell(point, name, column)] = Claim(store, escrow, by_store.get(name, text))
    return {cell: claims[cell] for cell in CELLS}
