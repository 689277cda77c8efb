"""Names that objects in Kubernetes can have; `helm/token-sidecar` makes the same."""

from __future__ import annotations

import hashlib

LONGEST = 63
"""Names stand in labels too, whose values can't be longer."""
DIGITS = 8


def fitting(name: str) -> str:
    """Return a name as it is, or where it is too long its beginning, with a digest that tells it from its like."""
    if len(name) <= LONGEST:
        return name
    beginning = name[: LONGEST - DIGITS - 1].rstrip("-")
    return f"{beginning}-{hashlib.sha256(name.encode()).hexdigest()[:DIGITS]}"
