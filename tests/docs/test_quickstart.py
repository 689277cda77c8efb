"""The quick start, typed as it stands there: by a test each time, and by a newcomer with a fresh clone now and then."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.following import PATIENCE, free_port, masked, output_of
from tests.docs.pages import DOCS, ROOT, Block
from tests.docs.pages import of as blocks

PAGE = DOCS / "tutorial" / "quickstart.md"
SECOND_HALF = "## Ten minutes: a pod"
MINUTES_PROMISED = 5


def first_half(*languages: str) -> Iterator[Block]:
    """Find the blocks of the half that needs no cluster."""
    text = PAGE.read_text(encoding="utf-8")
    end = text.count("\n", 0, text.index(f"\n{SECOND_HALF}\n"))
    return (block for block in blocks(*languages, pages=[PAGE]) if block.line < end)


def typed() -> str:
    """Return what somebody types, on a machine on which others may run daemons too."""
    script = "\n".join(block.text for block in first_half("sh")).replace("8321", str(free_port()))
    init = "token-sidecar init credentials.json --name mail"
    assert init in script
    ours = "printf '%s\\n' 'server: {port: 0}' 'allow_volatile_store: true' >> token-sidecar.yaml"
    return script.replace(init, f"{init}\n{ours}")


def missing(printed: str) -> set[str]:
    """Return what the page shows and nobody saw."""
    told = {masked(line) for line in printed.splitlines()}
    shown = {masked(line) for block in first_half("text") for line in block.text.splitlines()}
    assert shown
    return {line for line in shown if not any(line in one for one in told)}


@pytest.mark.timeout(PATIENCE + 30)
def test_the_first_half_does_what_it_says(shell: dict[str, str]) -> None:
    """With an environment that is made already, its commands print what it shows."""
    # A short path, because that of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ts-") as name:
        checkout = Path(name, "checkout")
        activate = checkout / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f"PATH={shlex.quote(shell['PATH'])}\n", encoding="utf-8")
        (checkout / "Makefile").write_text("venv:\n", encoding="utf-8")
        assert "\nvenv:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        printed = output_of(typed(), checkout, {**shell, "RUNTIME_DIRECTORY": f"{name}/run"})

    assert not missing(printed), printed


@pytest.mark.soak
def test_a_newcomer_gets_there_in_five_minutes() -> None:
    """A fresh clone, an empty home, nothing but make and Python: a refreshed file within the time that is promised."""
    with tempfile.TemporaryDirectory(prefix="ts-") as name:
        checkout, home = Path(name, "checkout"), Path(name, "home")
        home.mkdir()
        subprocess.run([str(shutil.which("git")), "clone", "--quiet", str(ROOT), str(checkout)], check=True)
        surroundings = {
            key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "HTTPS_"))
        }
        done = subprocess.run(
            ["/bin/bash", "-c", typed()],
            cwd=checkout,
            env={
                **surroundings,
                "HOME": str(home),
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "RUNTIME_DIRECTORY": f"{name}/run",
            },
            capture_output=True,
            text=True,
            timeout=MINUTES_PROMISED * 60,
            check=False,
        )

    assert not missing(done.stdout), done.stdout + done.stderr
