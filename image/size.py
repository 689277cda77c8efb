"""Runs the Dockerfile's build stage without an engine, and weighs what the image gets beside its interpreter.

`size.py [FOLDER]` does in FOLDER (a temporary one without it) what the stage says: the same context, the same
commands, the same requirements, with its absolute paths moved below FOLDER. It ends with 1 above the budget.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
DOCKERFILE = PROJECT / "Dockerfile"
STAGE = "build"
VENV = "/opt/token-sidecar"
MOVED = re.compile(r"(?<=[ =])(/opt/token-sidecar|/wheels|/rootfs)\b")
NOT_HERE = ("apt-get ",) if os.geteuid() == 0 else ("apt-get ", "chroot ")
"""Commands of the stage that this machine isn't for, or that take root's powers."""
BUDGET = 80_000_000
"""Bytes of everything that isn't the interpreter or a library of the system."""


class Instruction(NamedTuple):
    """One of the Dockerfile, with its lines joined."""

    stage: str
    """Empty before the first."""
    name: str
    text: str


def instructions(path: Path = DOCKERFILE) -> list[Instruction]:
    """Read a Dockerfile, as far as ours goes: no heredocs, no escape directive."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found: list[Instruction] = []
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            stage = text.partition(" AS ")[2]
        found.append(Instruction(stage, name, " ".join(text.split())))
    return found


def build(folder: Path, *, python: str = sys.executable) -> Path:
    """Run the stage's instructions below FOLDER; return where the virtual environment is."""
    subprocess.run([python, "-m", "venv", folder / "base"], check=True)  # noqa: S603
    context = folder / "build"
    context.mkdir()
    environment = {
        "PATH": f"{folder}/base/bin:{os.environ['PATH']}",
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))},
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    for each in instructions():
        if each.stage != STAGE:
            continue
        if each.name == "ARG":
            name, _, value = each.text.partition("=")
            environment[name] = os.environ.get(name, value)
        elif each.name == "COPY":
            _copy(*shlex.split(each.text), context=context)
        elif each.name == "RUN" and not each.text.startswith(NOT_HERE):
            command = MOVED.sub(rf"{folder}\1", each.text)
            subprocess.run(["sh", "-ec", command], cwd=context, env=environment, check=True)  # noqa: S603, S607
    return folder / VENV.lstrip("/")


def _copy(*places: str, context: Path) -> None:
    *sources, target = places
    for source in sources:
        found = PROJECT / source
        if found.is_dir():
            shutil.copytree(found, context / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, context / target)


def weigh(tree: Path) -> int:
    """Add up the bytes of all files below a directory."""
    return sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir() or path.is_symlink())


def by_distribution(venv: Path) -> Counter[str]:
    """Add up the bytes of each installed distribution, byte code included."""
    packages = next(venv.glob("lib/python3*/site-packages"))
    sizes: Counter[str] = Counter()
    for distribution in Distribution.discover(path=[str(packages)]):
        for file in distribution.files or ():
            path = packages / file
            code = path.parent / "__pycache__"
            compiled = code.glob(f"{path.stem}.*.pyc") if path.suffix == ".py" else ()
            here = (each for each in (path, *compiled) if each.exists())
            sizes[distribution.name] += sum(each.stat().st_size for each in here)
    return sizes


def main() -> None:
    """Build, print the table, and judge."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        venv = build(folder)
        total, whole = weigh(venv), weigh(folder / "rootfs")
        print("\nThe heaviest, with their byte code:\n")
        for name, size in by_distribution(venv).most_common(12):
            print(f"  {name:<32}{size / 1e6:6.1f} MB")
        print(f"\n  {'all that we add':<32}{total / 1e6:6.1f} MB of {BUDGET / 1e6:.0f}")
        print(f"  {'interpreter and system':<32}{(whole - total) / 1e6:6.1f} MB")
        print(f"  {'the image, before compression':<32}{whole / 1e6:6.1f} MB")
        if total > BUDGET:
            sys.exit("size.py: over the budget: look at the heaviest, and see image/trim.py")


if __name__ == "__main__":
    main()
