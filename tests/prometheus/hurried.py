"""The chart's rules for a world in which everything happens faster: all durations divided by one number.

Nothing else of a rule is changed, so that what fires there, and in which order, fires in the real world.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d+)([smhd])")
PIECES = re.compile(r'("[^"]*"|\[[^\]]*\])')
"""What is quoted (names and patterns), and ranges."""
NUMBER = re.compile(r"(?<![\w.$])\d+(?![\w.])")

SPANS = {120, 900, 86400}
"""Numbers in expressions that are seconds which pass: since a store answered, since a set was listed, a day."""
OTHERS = {0, 1, 2, 7, 30}
"""Counts and shares; and the 30 seconds by which two clocks differ, which is no time that passes."""


def hurried(rules: Path, factor: int) -> dict[str, Any]:
    """Return the rules with each range, `for:` and span divided.

    Raises `AssertionError` for a number of which it isn't known whether it is a span, and for a span that would be
    no whole number of seconds.
    """
    document: dict[str, Any] = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = expression(rule["expr"], factor)
            if "for" in rule:
                rule["for"] = _durations(rule["for"], factor)
    return document


def expression(expr: str, factor: int) -> str:
    """Divide what are durations in an expression: what is in brackets, and the numbers outside that are spans."""
    return "".join(_piece(piece, factor) for piece in PIECES.split(expr))


def _piece(piece: str, factor: int) -> str:
    if piece.startswith("["):
        return _durations(piece, factor)
    if piece.startswith('"'):
        return piece
    assert not DURATION.search(piece), f"a duration that is no range: {piece}"
    return NUMBER.sub(lambda found: _number(found[0], factor), piece)


def _durations(text: str, factor: int) -> str:
    return DURATION.sub(lambda found: f"{_divided(int(found[1]) * SECONDS[found[2]], factor)}s", text)


def _number(text: str, factor: int) -> str:
    number = int(text)
    assert number in SPANS | OTHERS, f"is {text} seconds that pass, or something else? See {__name__}"
    return str(_divided(number, factor)) if number in SPANS else text


def _divided(seconds: int, factor: int) -> int:
    assert seconds % factor == 0, f"{seconds} s can't be divided by {factor}"
    return seconds // factor
