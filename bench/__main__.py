"""`make bench`: measures everything, prints the tables, and writes docs/reference/performance.md with its pictures.

    python -m bench [--only footprint speed …] [--tiny] [--no-page]

It decides nothing: no figure makes it fail.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import bench
from bench.figures import Section, table

ROOT = Path(bench.__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "performance.md"
SECTIONS = ("footprint", "speed", "scale")
LIBRARIES = ("anyio", "httpx2", "uvicorn", "watchfiles", "asyncpg", "lightkube", "aiobotocore", "msgspec")
HEAD = """\
# Performance

<!-- Written by make bench. -->

What the daemon costs, and how quick it is. Every figure is minimum / median / maximum of several measurements, beside
a baseline from the same run; ratios are of medians. [Where time and memory go](../explanation/performance.md).
"""


def machine() -> str:
    """Say on what it ran."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}: {platform.system()} {platform.release()} on "
        f"{platform.machine()}, {cores} cores, {memory:.0f} GiB; {platform.python_implementation()} "
        f"{platform.python_version()}; {versions}. The machine had other work to do at times: ratios count."
    )


def page(sections: Sequence[Section]) -> str:
    """Write the page."""
    parts = [HEAD, machine(), ""]
    for section in sections:
        parts += [f"## {section.title}", "", section.method, "", table(section.figures), ""]
        parts += [
            line
            for picture in section.pictures
            for line in (f"![{picture.title}](../images/performance-{picture.name}.svg)", "")
        ]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="these alone")
    parser.add_argument("--tiny", action="store_true", help="a size that shows only that it runs")
    parser.add_argument("--no-page", action="store_true", help="print, and write nothing")
    given = parser.parse_args(arguments)
    # An image has its bytecode; with this set each process would compile all of the package anew, and be measured so.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sections = []
    for name in given.only:
        module = importlib.import_module(f"bench.{name}")
        section = module.measure(module.TINY if given.tiny else module.Size(), ROOT)
        print(f"\n{section.title}\n\n{table(section.figures)}", flush=True)
        sections.append(section)
    if not given.no_page and not given.tiny:
        PAGE.write_text(page(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
