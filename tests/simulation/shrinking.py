"""From a history that breaks a promise to the shortest one that still does, told in a few lines."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import groupby

from tests.simulation.history import Outcome, live
from tests.simulation.plan import Disturbance, Plan, written
from tests.simulation.scenario import Scenario

LEEWAY = 300.0
"""Seconds for which a shorter history may go on beyond the moment at which the longer one failed."""
QUIET_LINES = 4
"""So many of the lines in which nothing goes wrong are shown in a row."""


class Shrinking:
    """The shortest history found so far."""

    def __init__(self, found: Outcome, seconds: float) -> None:
        """`seconds`: how much processor time may be spent."""
        self.best = found
        self._until = time.process_time() + seconds

    def shrink(self) -> Outcome:
        """Try what may be left out, as long as anything was."""
        self._stop_sooner()
        before = None
        while before != (self.best.scenario, self.best.plan) and time.process_time() < self._until:
            before = self.best.scenario, self.best.plan
            self._drop_faults()
            for name in ("replicas", "tokens"):
                for fewer in range(1, getattr(self.best.scenario, name)):
                    if self._better(self._scenario(**{name: fewer})):
                        break
            self._bring_forward()
            self._stop_sooner()
        return self.best

    def _stop_sooner(self) -> None:
        """Let trouble last until the promise is broken, and no longer."""
        troubled = float(math.ceil(self.best.lasted) + 1)
        if troubled < self.best.scenario.troubled:
            self._better(self._scenario(troubled=troubled))

    def _drop_faults(self) -> None:
        """Leave out ever smaller parts of the plan (Zeller's delta debugging, greedily)."""
        size = len(self.best.plan)
        while size:
            start = 0
            while start < len(self.best.plan):
                if not self._better(plan=self.best.plan[:start] + self.best.plan[start + size :]):
                    start += size
            size //= 2

    def _bring_forward(self) -> None:
        """Let everything happen earlier: all of it together, then one after the other."""
        while self._better(plan=tuple(_sooner(entry) for entry in self.best.plan)):
            pass
        for index in range(len(self.best.plan)):
            while index < len(self.best.plan) and self._better(plan=self._with_sooner(index)):
                pass

    def _with_sooner(self, index: int) -> Plan:
        plan = self.best.plan
        return (*plan[:index], _sooner(plan[index]), *plan[index + 1 :])

    def _scenario(self, **changes: float) -> Scenario:
        return replace(self.best.scenario, **changes)  # type: ignore[arg-type]

    def _better(self, scenario: Scenario | None = None, plan: Plan | None = None) -> bool:
        """Take what breaks the same promise with less."""
        scenario, plan = scenario or self.best.scenario, self.best.plan if plan is None else plan
        if (scenario, plan) == (self.best.scenario, self.best.plan) or time.process_time() > self._until:
            return False
        tried = live(scenario, plan, until=self.best.lasted + LEEWAY)
        broken, meant = tried.verdict, self.best.verdict
        if broken is None or meant is None or broken.promise != meant.promise:
            return False
        self.best = tried
        return True


def shrunk(found: Outcome, *, seconds: float = 60.0) -> Outcome:
    """Shorten a history that broke a promise for as long as that helps, and no longer than `seconds`."""
    return Shrinking(found, seconds).shrink()


def _sooner(entry: Disturbance) -> Disturbance:
    return entry._replace(at=max(1, entry.at // 2))


def told(outcome: Outcome) -> list[str]:
    """Tell a history; of what goes well, only the last lines before something doesn't."""
    lines: list[str] = []
    for loud, group in groupby(outcome.trace, key=lambda line: line[2]):
        entries = [f"{at:9.2f}  {text}" for at, text, _ in group]
        left_out = 0 if loud else max(0, len(entries) - QUIET_LINES)
        lines += [f"           … {left_out} lines in which all is well"] if left_out else []
        lines += entries[left_out:]
    return lines


def report(found: Outcome, *, seconds: float = 60.0) -> str:
    """Say what was broken, how it comes about, and how to live it again."""
    short = shrunk(found, seconds=seconds)
    return "\n".join(
        [
            f"{found.verdict}",
            "",
            f"Shortest history found ({len(short.plan)} faults of {len(found.plan)}):",
            *told(short),
            f"{short.lasted:9.2f}  {short.verdict}",
            "",
            f"Live it again: {found.scenario.command()}",
            f"  the shortest: {short.scenario.command(written(short.plan))}",
        ]
    )
