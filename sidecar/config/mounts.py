"""What this process's directories are mounted from: /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
VOLATILE = IN_MEMORY | {"overlay", "aufs", "fuse.fuse-overlayfs"}
"""What is lost with the pod or container: memory, and the container's own layer."""


class Mounts:
    """The mount table, as it was when it was read. Empty where the system has none to read."""

    def __init__(self, table: dict[Path, str]) -> None:
        self._table = table

    @classmethod
    def read(cls) -> Mounts:
        """Read this process's own table."""
        try:
            lines = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return cls({})
        table = {}
        for line in lines:
            mounted, _, source = line.partition(" - ")
            table[Path(_unescape(mounted.split(" ")[4]))] = source.split(" ")[0]
        return cls(table)

    def is_mount_point(self, path: Path) -> bool:
        """Tell whether something is mounted on exactly this path."""
        return Path(os.path.realpath(path)) in self._table

    def kind(self, path: Path) -> str | None:
        """Name the file system that a path is on, or would be on if it existed; None: unknown."""
        real = Path(os.path.realpath(path))
        return next((self._table[place] for place in (real, *real.parents) if place in self._table), None)


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
