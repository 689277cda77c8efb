"""Remembers in `state_dir` that this pod has started before.

A restarted container must not be held up by a startup probe that it passed already: the application beside it
is running and reads its file. The marker is the file `started`, written when `/startupz` first succeeds. It
holds the pod's identity (`$POD_UID`, else the host name, which in a pod is the pod's name): a `state_dir`
that outlives the pod brings a marker that doesn't count. It goes with `state_dir`; once the file is deleted,
the next start is judged anew.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE = "started"


def identity(environ: Mapping[str, str] = os.environ) -> str:
    """Name this pod, or this machine where there is none."""
    return environ.get("POD_UID") or socket.gethostname()


class StartMarker:
    """The marker of one `state_dir`; read once, when it is made."""

    def __init__(
        self, state_dir: Path, *, pod: str | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        """`warn` is told once, in a sentence, that the marker could not be written."""
        self._path = state_dir / FILE
        self._pod = pod or identity()
        self._warn = warn
        self._failed = False
        try:
            self.present = self._path.read_text(encoding="utf-8").strip() == self._pod
        except (OSError, UnicodeDecodeError):
            self.present = False

    def set(self) -> None:
        """Write the marker, unless it is there."""
        if self.present or self._failed:
            return
        try:
            self._path.write_text(f"{self._pod}\n", encoding="utf-8")
        except OSError as error:
            # Costs a restarted container a wait, and nothing else.
            self._failed = True
            if self._warn is not None:
                self._warn(f"the start marker {self._path} could not be written: {error.strerror}")
        else:
            self.present = True
