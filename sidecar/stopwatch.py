"""Takes the times of a turn's steps, for whoever wants to see afterwards where the time went."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.errors import SidecarError
from sidecar.events import Course, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.clock import Clock


class Note:
    """What is to be said of a step; see `Step`. It may be filled in for as long as the turn lasts."""

    __slots__ = (
        "address",
        "at",
        "error",
        "idle",
        "name",
        "outcome",
        "problem",
        "seconds",
        "status",
        "subject",
    )

    def __init__(self, name: str, subject: str, at: float) -> None:
        self.name = name
        self.subject = subject
        self.at = at
        self.seconds = 0.0
        self.outcome = self.error = self.problem = self.address = ""
        self.status: int | None = None
        self.idle = False
        """Whether nothing was done after all, so that there is nothing to be said of it."""

    def failed(self, error: SidecarError) -> None:
        """Say why it failed."""
        self.error, self.problem = type(error).__name__, str(error)

    def step(self) -> Step:
        """Say it."""
        return Step(
            name=self.name,
            at=self.at,
            seconds=self.seconds,
            subject=self.subject,
            outcome=self.outcome,
            error=self.error,
            problem=self.problem,
            status=self.status,
            address=self.address,
        )


class Stopwatch:
    """The steps of one turn. Their times lie within it, and in order, whatever the wall clock does meanwhile."""

    __slots__ = ("_began", "_clock", "_notes", "_started", "id")

    def __init__(self, clock: Clock) -> None:
        """Begin now."""
        # Not a UUID: samplers of traces take the lower half for a number, and some of a UUID's digits are fixed.
        self.id = os.urandom(16).hex()
        self._clock = clock
        self._began, self._started = clock.wall(), clock.boot()
        self._notes: list[Note] = []

    def note(self, name: str, subject: str = "") -> Note:
        """Announce a step, which begins now, or when its time is taken."""
        note = Note(name, subject, self._elapsed())
        self._notes.append(note)
        return note

    @contextmanager
    def step(self, name: str, subject: str = "") -> Iterator[Note]:
        """Take the time of a step; an error that goes through is taken note of."""
        with self.timed(self.note(name, subject)) as note:
            yield note

    @contextmanager
    def timed(self, note: Note) -> Iterator[Note]:
        """Take the time of a step that was announced."""
        note.at = self._elapsed()
        try:
            yield note
        except SidecarError as error:
            note.failed(error)
            raise
        finally:
            note.seconds = self._elapsed() - note.at

    def course(self) -> Course:
        """Say how it went."""
        steps = tuple(note.step() for note in self._notes if not note.idle)
        return Course(self.id, self._began, self._elapsed(), steps)

    def _elapsed(self) -> float:
        return self._clock.boot() - self._started
