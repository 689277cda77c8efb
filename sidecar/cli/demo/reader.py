"""The application's side: reads the token files all the time and shows the tokens to the provider."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from sidecar.cli.demo.provider import is_live

T = TypeVar("T")

PAUSE = 0.002
"""Seconds between two rounds: some hundred reads a second of each file, at a few percent of one core."""

LONGEST_PAUSE = 3.0
KEPT_EXPIRIES = 64
_HEADER = re.compile(r"Authorization: Bearer (sim-at-[\w-]{32})")


class Repeating(threading.Thread, Generic[T]):
    """Calls a function again and again, and keeps what it returned last."""

    def __init__(self, function: Callable[[], T], *, pause: float, share: float = 1.0) -> None:
        """`pause`: seconds between two calls; it grows so that calls take no more than this `share` of the time."""
        super().__init__(daemon=True)
        self._function = function
        self._pause = pause
        self._share = share
        self._over = threading.Event()
        self.latest: tuple[float, T] | None = None
        """When the last finished call began (Unix seconds), and what it returned."""
        self.failure: Exception | None = None
        """What ended the thread, though nothing should have."""

    def run(self) -> None:
        """Repeat until stopped."""
        try:
            while not self._over.is_set():
                began = time.time()
                self.latest = began, self._function()
                took = time.time() - began
                self._over.wait(max(self._pause, min(LONGEST_PAUSE, took / self._share - took)))
        except Exception as failure:  # noqa: BLE001 - raised again by the main thread
            self.failure = failure

    def stop(self) -> None:
        """Let the call that is under way be the last."""
        self._over.set()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file held at one moment."""

    token: str | None = None
    expires_at: float | None = None
    """Unix seconds; None: the file doesn't say, and neither did another with the same token."""
    problem: str = ""


@dataclass(slots=True)
class Breach:
    """What a reader should never see, within one second."""

    kind: str
    """missing | empty | torn | expired | short (less than min_validity) | refused (by the provider)."""
    file: str
    second: int
    count: int = 0
    lowest: float = 0.0
    """The least validity, in seconds, where the kind has one."""


@dataclass(slots=True)
class Findings:
    """What the reader found. Its own thread writes, others only read."""

    reads: int = 0
    shown: int = 0
    """How often a token was shown to the provider."""
    lows: dict[int, float] = field(default_factory=dict)
    """Second → the least validity that was seen in it."""
    seen: dict[str, Seen] = field(default_factory=dict)
    """File → what it held last; a file that never appeared isn't in here."""
    refused: dict[str, str] = field(default_factory=dict)
    """File → the token of it that the provider refused last."""
    breaches: dict[tuple[str, str, int], Breach] = field(default_factory=dict)

    @property
    def lowest(self) -> float | None:
        """The least validity that was seen; None before any."""
        return min(list(self.lows.values()), default=None)

    def count(self, kind: str) -> int:
        """Count the breaches of a kind."""
        return sum(breach.count for breach in list(self.breaches.values()) if breach.kind == kind)

    def note(self, kind: str, file: str, at: float, left: float = 0.0) -> None:
        """Add a breach."""
        breach = self.breaches.setdefault((kind, file, int(at)), Breach(kind, file, int(at), lowest=left))
        breach.count += 1
        breach.lowest = min(breach.lowest, left)


class Reader:
    """Reads and parses a set of files, as applications do: open, read, close."""

    def __init__(
        self, files: Mapping[str, Path], *, min_validity: float, provider: str, settle: float = 0.0
    ) -> None:
        """`files`: name → path; `provider`: its base URL.

        `settle`: seconds in which a token that the provider refuses has to be replaced, to be no finding.
        """
        self._settle = settle
        self._files = files
        self._min_validity = min_validity
        self._provider = provider
        self._expiries: dict[str, float] = {}
        self.findings = Findings()
        self.threads: tuple[Repeating[None], Repeating[None]] = (
            Repeating(self._round, pause=PAUSE),
            Repeating(self._show, pause=0.3),
        )

    def _round(self) -> None:
        for name, path in self._files.items():
            # Taken first: a validity is never made to look shorter than the reader saw it.
            now = time.time()
            try:
                self._judge(name, path.read_bytes(), now)
            except OSError as error:
                if name in self.findings.seen:
                    self._object(name, "missing", now, f"can't be read: {error.strerror}")
            self.findings.reads += 1

    def _judge(self, name: str, content: bytes, now: float) -> None:
        if not content:
            self._object(name, "empty", now, "is empty")
            return
        try:
            token, expires_at = _parse(name, content)
        except (ValueError, KeyError, TypeError):
            self._object(name, "torn", now, "holds half a token, or none")
            return
        expires_at = self._expiry(token, expires_at)
        self.findings.seen[name] = Seen(token, expires_at)
        if expires_at is None:
            return
        left = expires_at - now
        second = int(now)
        self.findings.lows[second] = min(left, self.findings.lows.get(second, left))
        if left < self._min_validity:
            self.findings.note("short" if left > 0 else "expired", name, now, left)

    def _object(self, name: str, kind: str, now: float, problem: str) -> None:
        self.findings.seen[name] = Seen(problem=problem)
        self.findings.note(kind, name, now)

    def _expiry(self, token: str, expires_at: float | None) -> float | None:
        """Remember when a token ends, for the files that don't say."""
        if expires_at is None:
            return self._expiries.get(token)
        if token not in self._expiries and len(self._expiries) >= KEPT_EXPIRIES:
            del self._expiries[next(iter(self._expiries))]
        self._expiries[token] = expires_at
        return expires_at

    def _show(self) -> None:
        """Show each file's token to the provider, as a request for something useful would."""
        for name, seen in list(self.findings.seen.items()):
            if seen.token is None:
                continue
            live = is_live(self._provider, seen.token)
            now = time.time()
            self.findings.shown += live is not None
            ended = seen.expires_at is not None and seen.expires_at < now
            # An expired token is the other thread's finding, and one that was replaced meanwhile is none.
            if live is False and not ended and self._stays(name, seen.token):
                self.findings.refused[name] = seen.token
                self.findings.note("refused", name, now)

    def _stays(self, name: str, token: str) -> bool:
        """Tell whether a file still holds this token when there was time to replace it."""
        until = time.time() + self._settle
        while (same := self.findings.seen[name].token == token) and time.time() < until:
            time.sleep(PAUSE)
        return same


def _parse(name: str, content: bytes) -> tuple[str, float | None]:
    """Return the access token and when it ends. Raises what parsers raise."""
    text = content.decode()
    if name.endswith(".json"):
        members: dict[str, Any] = json.loads(text)
        return str(members["access_token"]), float(members["expires_at"])
    # The length too, or half a token would pass for one.
    whole = _HEADER.fullmatch(text)
    if whole is None:
        raise ValueError
    return whole[1], None
