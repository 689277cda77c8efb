"""Live one history, and tell it: `make sim SEED=7`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.simulation.history import Outcome, live
from tests.simulation.plan import read
from tests.simulation.scenario import KINDS, Scenario
from tests.simulation.shrinking import report, told


def main(arguments: list[str]) -> int:
    """Live the history that the arguments describe; returns 1 if a promise was broken."""
    asked = _parser().parse_args(arguments)
    names = ("kind", "replicas", "tokens", "ttl", "troubled", "roughness", "steps_clocks")
    changes = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    scenario = Scenario.of(asked.seed, **changes)
    plan = read(asked.plan) if asked.plan is not None else None
    outcome = live(scenario, plan)
    print(scenario)  # noqa: T201
    print(*told(outcome), sep="\n")  # noqa: T201
    print(figures([outcome]))  # noqa: T201
    if outcome.verdict is None:
        print("every promise was kept")  # noqa: T201
        return 0
    print(f"\n{report(outcome) if plan is None else outcome.verdict}")  # noqa: T201
    return 1


def figures(outcomes: list[Outcome]) -> str:
    """Sum up some histories."""
    renewals, took = sum(outcome.renewals for outcome in outcomes), sum(outcome.took for outcome in outcomes)
    hours = sum(outcome.lasted for outcome in outcomes) / 3600
    faults = sum((outcome.faults for outcome in outcomes), start=Counter[str]())
    judged = sum((outcome.judged for outcome in outcomes), start=Counter[str]())
    excused = sum((outcome.excused for outcome in outcomes), start=Counter[str]())
    calls = sum(outcome.calls for outcome in outcomes)
    told = f"{len(outcomes)} histories of {hours:.1f} h, {renewals} renewals, {calls} calls"
    return "\n".join(
        [
            f"{told}, {faults.total()} faults; {renewals / max(took, 0.001):.0f} renewals/s",
            "faults: " + _listed(faults),
            "judged: " + _listed(judged),
            "excused by a window: " + _listed(excused),
        ]
    )


def _listed(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items())) or "none"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--ttl", type=float)
    parser.add_argument("--troubled", type=float, help="seconds for which things go wrong")
    parser.add_argument("--roughness", type=float)
    parser.add_argument("--steps-clocks", type=lambda text: text == "True")
    parser.add_argument("--plan", help="the faults, in place of the dice's")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
