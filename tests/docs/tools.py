"""The programs that look at blocks, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


def program(name: str) -> str:
    """Find a program that pip can't install; without it the test is skipped, unless in CI."""
    found = shutil.which(name)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert found is not None, f"{name} must be there in CI"
    return found


def refused(text: str, name: str, *command: str) -> str:
    """Let a program look at a text in a file of that name; return what it says if it refuses that."""
    done = look(text, name, *command)
    return done.stdout + done.stderr if done.returncode else ""


def look(text: str, name: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Let a program look at a text in a file of that name."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        call = [program(command[0]), *command[1:], str(file)]
        return subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
