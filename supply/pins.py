"""What requirements/*.txt pin."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINNED = re.compile(r"^[A-Za-z0-9][^\\\n]*==[^\\\n]*", re.MULTILINE)


def pins(*files: Path) -> set[tuple[str, str]]:
    """Return the names, canonical, and versions that these files have for this machine and this Python."""
    lines = [line for file in files for line in PINNED.findall(file.read_text(encoding="utf-8"))]
    found = map(Requirement, lines)
    return {
        (canonicalize_name(each.name), str(each.specifier).removeprefix("=="))
        for each in found
        if each.marker is None or each.marker.evaluate()
    }
