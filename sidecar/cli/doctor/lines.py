"""What a check says: lines, each of one grade; the table of all of them, and what they mean to a script."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click
import msgspec

from sidecar.cli import common
from sidecar.ports import Finding, Grade

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.errors import SidecarError

WORST_FIRST = (2, 3, 1, 4)
"""Exit codes: "try again later" is the answer only if nothing else is wrong."""


class Line(msgspec.Struct, frozen=True):
    """One line of the table."""

    check: str
    """What was looked at: `certificate`."""
    subject: str
    """Which one: `oauth2.googleapis.com`; empty where there is only one."""
    finding: Finding


class Check(msgspec.Struct, frozen=True):
    """Makes the lines of one subject."""

    name: str
    subject: str = ""

    def ok(self, text: str) -> Line:
        """Say that it is as it should be."""
        return Line(self.name, self.subject, Finding(Grade.OK, text))

    def warning(self, text: str, remedy: str = "") -> Line:
        """Say that it works, and may not for long."""
        return Line(self.name, self.subject, Finding(Grade.WARNING, text, remedy))

    def failed(self, text: str, remedy: str = "", *, exit_code: int = 1) -> Line:
        """Say that it does not work."""
        return Line(self.name, self.subject, Finding(Grade.FAILED, text, remedy, exit_code))

    def skipped(self, text: str, remedy: str = "") -> Line:
        """Say why it was not looked at."""
        return Line(self.name, self.subject, Finding(Grade.SKIPPED, text, remedy))

    def error(self, error: SidecarError, *, exit_code: int | None = None) -> Line:
        """Say what an error says: reason; way out."""
        text, _, remedy = str(error).partition("; ")
        return self.failed(text, remedy, exit_code=error.exit_code if exit_code is None else exit_code)

    def found(self, findings: Iterable[Finding]) -> list[Line]:
        """Take over what an adapter found."""
        return [Line(self.name, self.subject, finding) for finding in findings]


def exit_code(lines: Iterable[Line]) -> int:
    """Choose what all of it means to a script."""
    codes = {line.finding.exit_code for line in lines if line.finding.grade is Grade.FAILED}
    return next((code for code in WORST_FIRST if code in codes), 0)


def show(lines: Sequence[Line]) -> None:
    """Print the table, and the sum."""
    common.show_table(["STATUS", "CHECK", "FINDING"], [_row(line) for line in lines])
    counts = Counter(line.finding.grade for line in lines)
    click.echo(", ".join(f"{counts[grade]} {grade}" for grade in Grade if counts[grade]))


def document(lines: Sequence[Line]) -> dict[str, Any]:
    """Build the same for machines."""
    code = exit_code(lines)
    return {
        "ok": code == 0,
        "exit_code": code,
        "checks": [
            {
                "check": line.check,
                "subject": line.subject,
                "status": line.finding.grade.value,
                "finding": line.finding.text,
                "remedy": line.finding.remedy,
            }
            for line in lines
        ],
    }


def _row(line: Line) -> list[str]:
    found = line.finding
    text = f"{found.text}; {found.remedy}" if found.remedy else found.text
    return [_plain(cell) for cell in (found.grade.value, f"{line.check} {line.subject}".strip(), text)]


def _plain(text: str) -> str:
    """Reasons may come from providers and file names; neither may steer the terminal."""
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split())
    )
