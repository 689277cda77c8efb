"""The documentation as a site, built once for the tests of a process; and a shell to type in what pages say."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    strict = ["--quiet", "--fail-on-warning", "--keep-going"]
    places = ["--conf-dir", "docs/site", "--doctree-dir", str(folder / "doctrees"), ".", str(folder / "html")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Make an environment in which `token-sidecar` and `python` are these very ones."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, call in (("python", ""), ("token-sidecar", " -m sidecar")):
        shim = shims / name
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{call} "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
    return {
        **os.environ,
        **dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"), ""),
        "PATH": f"{shims}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
    }
