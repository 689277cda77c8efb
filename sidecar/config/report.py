"""Collects everything that is wrong with a configuration: one line each, with its place and the way out."""

from __future__ import annotations

import re

import msgspec

from sidecar.errors import ConfigError


class Mark(msgspec.Struct, frozen=True, order=True):
    """A place in the file, counted from 1, and the name of what is there, like `tokens.gmail.outputs[0]`."""

    line: int
    column: int
    label: str


class Report:
    """The problems and warnings found so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._errors: dict[tuple[Mark, str], None] = {}
        self._warnings: dict[tuple[Mark, str], None] = {}

    def error(self, mark: Mark, text: str) -> None:
        """Add something that the daemon can't run with; what was said already isn't said again."""
        self._errors[mark, text] = None

    def warning(self, mark: Mark, text: str) -> None:
        """Add something that the daemon can run with."""
        self._warnings[mark, text] = None

    def spoilt(self, name: str) -> bool:
        """Tell whether something at or below this place was wrong, and left out."""
        return any(
            mark.label == name or mark.label.startswith((f"{name}.", f"{name}[")) for mark, _ in self._errors
        )

    @property
    def problems(self) -> list[str]:
        """Every error as a line, in the order of the file."""
        return [self.line(mark, text) for mark, text in sorted(self._errors)]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every warning as a line, in the order of the file."""
        return tuple(self.line(mark, text) for mark, text in sorted(self._warnings))

    def check(self) -> None:
        """Raise `ConfigError` if there is any error."""
        if self._errors:
            raise ConfigError(self.problems, warnings=self.warnings)

    def line(self, mark: Mark, text: str) -> str:
        """Put a place and what is said of it on one line, whatever the names of files are made of."""
        place = f"{self.file}:{mark.line}:{mark.column}"
        whole = f"{place}: {mark.label}: {text}" if mark.label else f"{place}: {text}"
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in whole
        )


def label(parent: str, key: str) -> str:
    """Name a member of a mapping; a key that doesn't fit on a line is quoted, one like a secret is masked."""
    if parent not in {"tokens", "providers"} and looks_secret(key):
        return f"{parent}.…" if parent else "…"
    shown = key if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", key) else repr(key[:40])
    return f"{parent}.{shown}" if parent else shown


def looks_secret(text: str) -> bool:
    """Guess whether a text is a token or password that was put in the wrong place."""
    return bool(
        not text.startswith(("/", ".", "~"))
        and re.fullmatch(r"[A-Za-z0-9._~+/=-]{20,}", text)
        and re.search(r"[0-9]", text)
        and re.search(r"[A-Za-z]", text)
        and not text.endswith((".json", ".txt", ".yaml", ".yml", ".db"))
    )
