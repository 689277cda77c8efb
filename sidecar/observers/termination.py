"""Tells kubelet why: the last words of a container are what `kubectl describe pod` shows."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.events import Event, GrantDied, Seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = Path("/dev/termination-log")
"""Kubernetes' default `terminationMessagePath`; elsewhere there is no such file, and none is made."""


class TerminationLog:
    """An observer that keeps the reason of each death, and the command that repairs it, where kubelet looks."""

    def __init__(self, path: Path = PATH) -> None:
        """Write to `path` if it exists."""
        self._path = path
        self._deaths: Mapping[str, str] = {}

    def notice(self, event: Event) -> None:
        """Note a death, or strike it off."""
        if isinstance(event, GrantDied):
            said = f"{event.token}: the grant is dead ({event.reason}); {event.remedy}"
            self._write({**self._deaths, event.token: said})
        elif isinstance(event, Seeded) and event.token in self._deaths:
            self._write({name: said for name, said in self._deaths.items() if name != event.token})

    def _write(self, deaths: Mapping[str, str]) -> None:
        self._deaths = deaths
        with suppress(OSError):
            if self._path.exists():
                self._path.write_text("".join(f"{said}\n" for said in deaths.values()), encoding="utf-8")
