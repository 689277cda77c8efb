"""What every check needs: the file's tree, the report, and where the process runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from sidecar.config.document import Node
from sidecar.config.report import Mark, Report, label, looks_secret


class Context(msgspec.Struct, frozen=True):
    """Finds the place in the file that a check speaks of, and says it there."""

    path: Path
    """The configuration file, absolute."""
    tree: Node
    """As decoded; a value that a token took over from `defaults` is marked with its place there."""
    report: Report
    env: Mapping[str, str]
    disk: bool
    """Whether to look at files and directories too."""

    @property
    def base(self) -> Path:
        """The directory that relative paths start from."""
        return self.path.parent

    def error(self, steps: Sequence[str | int], text: str) -> None:
        """Report an error at the place that these steps lead to."""
        self.report.error(self.mark(steps), self._masked(steps, text))

    def warning(self, steps: Sequence[str | int], text: str) -> None:
        """Report a warning at the place that these steps lead to."""
        self.report.warning(self.mark(steps), self._masked(steps, text))

    def line(self, steps: Sequence[str | int], text: str) -> str:
        """Say something of the place that these steps lead to, for checks that run after loading."""
        return self.report.line(self.mark(steps), self._masked(steps, text))

    def missing(self, steps: Sequence[str | int], text: str) -> None:
        """Report that something was left out, unless it was there and is reported as wrong."""
        mark = self.mark(steps)
        if not self.report.spoilt(mark.label) and not self.report.spoilt("defaults"):
            self.report.error(mark, text)

    def given(self, steps: Sequence[str | int]) -> bool:
        """Tell whether something is written at a place."""
        node: Node | None = self.tree
        for step in steps:
            node = node.get(step) if node is not None else None
        return node is not None

    def misplaced_secret(self, steps: Sequence[str | int]) -> str | None:
        """Return what was written at a place, if it looks like a secret and should be something else."""
        node: Node | None = self.tree
        for step in steps:
            node = node.get(step) if node is not None else None
        if node is not None and isinstance(node.value, dict):
            node = node.get("file")  # a seed's path, written out
        value = node.value if node is not None else None
        return value if isinstance(value, str) and looks_secret(value) else None

    def _masked(self, steps: Sequence[str | int], text: str) -> str:
        secret = self.misplaced_secret(steps)
        return text if secret is None else text.replace(secret, "…")

    def mark(self, steps: Sequence[str | int]) -> Mark:
        """Find a place; what is not there is named all the same, and marked at what should hold it."""
        node, name, present = self.tree, "", True
        for step in steps:
            child = node.get(step) if present else None
            present = child is not None
            if child is not None:
                node, name = child, child.mark.label
            else:
                name = f"{name}[{step}]" if isinstance(step, int) else label(name, step)
        at = node.mark if present else node.key_mark
        return Mark(at.line, at.column, name)
