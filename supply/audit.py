"""Asks a database of vulnerabilities about all that is pinned: `make audit`.

pip-audit asks. What this adds is the question whether anybody answered: a database that is away, knows a part of the
packages or nothing at all must not look like one that knows of no vulnerability. So a package with one is asked about
first, and every pin has to be in the report.

`audit.py [--database URL] [FILE …]` asks about FILEs, all of requirements/*.txt without any. Exit codes: 0 nothing is
known; 1 something is; 2 it was not found out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from supply.pins import pins

PROJECT = Path(__file__).parents[1]
BAIT = "pyyaml==5.3"
"""Known to run code from a file that it reads (CVE-2020-14343). A database that doesn't know that knows nothing."""
WELL, VULNERABLE, UNKNOWN = 0, 1, 2


class NotChecked(Exception):
    """Nobody knows whether what is pinned has known vulnerabilities."""


def main(arguments: list[str]) -> int:
    """Ask, and tell a human."""
    parser = argparse.ArgumentParser(prog="audit", description="Known vulnerabilities of what is pinned")
    parser.add_argument("--database", metavar="URL", help="a mirror of OSV's query interface")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    files = options.files or sorted((PROJECT / "requirements").glob("*.txt"))
    database = ["--osv-url", options.database] if options.database else []
    try:
        vulnerable = audit(files, database)
    except NotChecked as error:
        print(f"NOT CHECKED: {error}", file=sys.stderr)
        return UNKNOWN
    for package in vulnerable:
        for each in package["vulns"]:
            print(f"{package['name']} {package['version']}: {told(each)}")
    print(f"{len(pins(*files))} pinned packages were looked up, {len(vulnerable)} with known vulnerabilities")
    return VULNERABLE if vulnerable else WELL


def told(vulnerability: dict[str, Any]) -> str:
    """Tell a vulnerability in a line: its names, what mends it, and what it is."""
    names = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
    mended = ", ".join(vulnerability["fix_versions"]) or "no version"
    return f"{names}; mended in {mended}. {vulnerability['description'][:200]}"


def audit(files: list[Path], database: list[str]) -> list[dict[str, Any]]:
    """Return the packages with known vulnerabilities, as pip-audit reports them.

    Raises:
        NotChecked: the database gave no answer, or one that can't be believed.
    """
    with tempfile.TemporaryDirectory() as folder:
        bait = Path(folder) / "bait.txt"
        bait.write_text(BAIT, encoding="utf-8")
        if not any(each["vulns"] for each in report([bait], ["--no-deps", *database])):
            raise NotChecked(f"the database knows nothing against {BAIT}, which everybody else does")
    found = report(files, ["--require-hashes", *database])
    looked_up = {(canonicalize_name(each["name"]), each["version"]) for each in found}
    if missing := pins(*files) - looked_up:
        raise NotChecked(f"no answer for {', '.join(map('=='.join, sorted(missing)))}")
    return [each for each in found if each["vulns"]]


def report(files: list[Path], options: list[str]) -> list[dict[str, Any]]:
    """Have pip-audit ask about FILEs; nothing is resolved or downloaded, since all is pinned."""
    named = [word for file in files for word in ("--requirement", str(file))]
    fixed = ["--vulnerability-service", "osv", "--strict", "--disable-pip", "--format", "json"]
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", *fixed, *options, *named],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answered = json.loads(done.stdout)
    except ValueError:
        # It ends with 1 for a vulnerability as for a database that is away; only the former has a report.
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        raise NotChecked(f"the database could not be asked: {last}") from None
    return [each for each in answered["dependencies"] if "skip_reason" not in each]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
