"""The documentation as a site, built once for the tests of a process; and a shell to type in what pages say."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

SITE_PATIENCE = 240
"""Seconds for the whole site; ten where nothing else runs."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have the site built as `make docs` does, once for all of the run's processes; a warning is an error."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (shared / "site.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not (shared / "site").exists():
            build(shared / "site.tmp")
            (shared / "site.tmp").rename(shared / "site")
    return shared / "site"


def build(folder: Path) -> None:
    """Make the site."""
    strict = ["--quiet", "--fail-on-warning", "--keep-going"]
    places = ["--conf-dir", "docs/site", "--doctree-dir", f"{folder}.doctrees", ".", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SITE_PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


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
