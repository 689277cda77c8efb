"""What goes wrong in a history, as an explicit list that can be written down, taken apart and lived again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tests.simulation.faults import TIMED, Chance
from tests.simulation.scenario import Scenario


class Disturbance(NamedTuple):
    """One thing that goes wrong: at the nth visit of a port, or at a second of the history.

    As text `host0/t1/commit#3:killed=10` (the third time that host0 gets to commit token t1, it is killed, and
    starts again ten seconds later) or `world@120:outage=30`.
    """

    place: str
    """`host/token/port`, or who it happens to: a host, a token, or the world."""
    at: int
    """How many times the port was visited, or how many seconds have passed."""
    what: str
    value: float

    @property
    def timed(self) -> bool:
        """Tell whether it happens at a time, and not at a port."""
        return "/" not in self.place

    def __str__(self) -> str:
        sign = "@" if self.timed else "#"
        return f"{self.place}{sign}{self.at}:{self.what}={self.value:g}"

    @classmethod
    def parse(cls, text: str) -> Disturbance:
        """Read one back."""
        where, _, rest = text.partition(":")
        place, _, at = where.replace("@", "#").partition("#")
        what, _, value = rest.partition("=")
        return cls(place, int(at), what, float(value))


Plan = tuple[Disturbance, ...]


def written(plan: Iterable[Disturbance]) -> str:
    """Write a plan down, for the command line."""
    return " ".join(map(str, plan))


def read(text: str) -> Plan:
    """Read a plan back."""
    return tuple(map(Disturbance.parse, text.split()))


class Script:
    """Says what goes wrong and where: by the dice, or by a plan. Either way it remembers what did."""

    def __init__(self, scenario: Scenario, plan: Sequence[Disturbance] | None) -> None:
        """`plan` None: the dice decide."""
        self.happened: list[Disturbance] = []
        self.visits: Counter[str] = Counter()
        self.calm = False
        self._scenario = scenario
        # Nothing but faults is drawn from these: leaving one out does not move a single other random number.
        self._dice = random.Random(f"{scenario.seed}/faults")  # noqa: S311 - dice, no secrets
        self._planned: Mapping[tuple[str, int], Disturbance] | None = None
        if plan is not None:
            self._planned = {(entry.place, entry.at): entry for entry in plan if not entry.timed}
        self.timed = self._draw_timed() if plan is None else sorted(_timed(plan), key=lambda entry: entry.at)

    def at(self, place: str, menu: Sequence[Chance]) -> Disturbance | None:
        """Tell what goes wrong at this visit of a port, if anything."""
        self.visits[place] += 1
        number = self.visits[place]
        hit = None
        if self._planned is not None and not self.calm:
            hit = self._planned.get((place, number))
        elif not self.calm:
            hit = self._draw(place, number, menu)
        if hit is not None:
            self.happened.append(hit)
        return hit

    def _draw(self, place: str, number: int, menu: Sequence[Chance]) -> Disturbance | None:
        drawn = self._dice.random() / self._scenario.roughness
        for chance in menu:
            drawn -= chance.probability
            if drawn < 0:
                return Disturbance(place, number, chance.what, self._dice.choice(chance.values))
        return None

    def _draw_timed(self) -> list[Disturbance]:
        scenario, dice = self._scenario, random.Random(f"{self._scenario.seed}/times")  # noqa: S311 - as above
        menu = [chance for chance in TIMED if scenario.steps_clocks or chance.what != "clock"]
        weights = [chance.probability for chance in menu]
        found, at = [], dice.expovariate(scenario.roughness / 40)
        while at < scenario.troubled:
            [chance] = dice.choices(menu, weights)
            found.append(
                Disturbance(self._whom(dice, chance), int(at), chance.what, dice.choice(chance.values))
            )
            at += max(1.0, dice.expovariate(scenario.roughness / 40))
        return found

    def _whom(self, dice: random.Random, chance: Chance) -> str:
        match chance.whom:
            case "host":
                return f"host{dice.randrange(self._scenario.replicas)}"
            case "token":
                return f"t{dice.randrange(self._scenario.tokens)}"
            case _:
                return "world"


def _timed(plan: Iterable[Disturbance]) -> list[Disturbance]:
    return [entry for entry in plan if entry.timed]
