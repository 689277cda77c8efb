"""What was seen last in a place behind a network, and what that tells of its readers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from sidecar.errors import FormatError
from sidecar.outputs.index import Entry, digest
from sidecar.ports import Holding
from sidecar.tokens import ExpirySource, fingerprint

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.formats.contents import Format
    from sidecar.outputs.index import Index
    from sidecar.ports import Mark

REMEMBERED_FOR = 180.0
"""Seconds after which it is said since when nothing is known: three looks that should have been."""


class Seen(msgspec.Struct, frozen=True):
    """What was in place when somebody looked."""

    at: float
    """Unix seconds."""
    since: float
    """When this content was first seen, in Unix seconds."""
    content: bytes | None = None
    entry: Entry | None = None
    """What the place itself says of this very content."""
    problem: str | None = None


class Sight:
    """The memory of one output. Nobody is asked."""

    def __init__(self, layout: Format, index: Index, clock: Clock) -> None:
        """Have seen nothing yet."""
        self._format = layout
        self._index = index
        self._clock = clock
        self._seen: Seen | None = None

    def note(self, content: bytes | None, *, problem: str | None = None, entry: Entry | None = None) -> Seen:
        """Remember what is there; without a content, `problem` says why."""
        before, now = self._seen, self._clock.wall()
        since = before.since if before is not None and before.content == content else now
        self._seen = Seen(now, since, content or None, entry, None if content else problem)
        return self._seen

    def holding(self) -> Holding:
        """See `RemoteOutput.read_back`."""
        if self._seen is None:
            return Holding(problem="has not been looked at yet", mark=self._index.mark)
        return replace(self._judged(self._seen), mark=self._index.mark)

    def _judged(self, seen: Seen) -> Holding:
        problem = seen.problem
        if self._clock.wall() - seen.at > REMEMBERED_FOR:
            last = datetime.fromtimestamp(seen.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            problem = f"was last seen at {last}; what it holds now is not known"
        if seen.content is None:
            return Holding(problem=problem)
        entry = seen.entry or self._index.find(digest(seen.content))
        holding = entry.holding if entry is not None else self._foreign(seen.content, seen.since)
        return replace(holding, problem=problem or holding.problem)

    def _foreign(self, content: bytes, at: float) -> Holding:
        try:
            access = self._format.decode(content).access(written_at=at, by_receiver=True)
        except FormatError as error:
            return Holding(problem=f"is not in the format `{self._format.name}`: {error}")
        if access is None:
            return Holding(problem="holds no access token")
        known = access.expiry_source is not ExpirySource.ASSUMED
        return Holding(fingerprint=fingerprint(access.value), expires_at=access.expires_at if known else None)


def is_older(ours: Entry, theirs: Entry | None) -> bool:
    """Tell whether another daemon published a later token than ours, which serves readers for longer, too."""
    if theirs is None or not _behind(ours.mark, theirs.mark):
        return False
    if theirs.expires_at is None or ours.expires_at is None:
        return theirs.expires_at is None
    return theirs.expires_at >= ours.expires_at


def _behind(ours: Mark, theirs: Mark) -> bool:
    if ours.lineage == theirs.lineage:
        return ours.generation < theirs.generation
    return (ours.seeds, ours.issued_at) < (theirs.seeds, theirs.issued_at)
