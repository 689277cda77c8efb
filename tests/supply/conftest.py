from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
AUDITOR = Path(sys.prefix) / "audit" / "bin" / "python"
"""Python with the tools that audit; `make .venv/.audit` makes it."""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """Run a module of supply/ as `make` does."""
    if not AUDITOR.exists() and not os.environ.get("CI"):
        pytest.skip("the tools that audit are not installed (make .venv/.audit)")

    def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AUDITOR, "-m", f"supply.{module}", *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )

    return run
