"""Runs what a page says, and looks for what it shows."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

PATIENCE = 120
"""Seconds for all of a page; half a minute on a machine that does nothing else."""


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def masked(line: str) -> str:
    """Take out of a line what differs from run to run."""
    return re.sub(r"[0-9a-f]{12}|#[#.]*|\d+(?= ?s\b)", "~", " ".join(line.split()))


def output_of(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script with all that it starts; return what was printed."""
    printed = folder / "printed"
    with printed.open("wb") as out:
        process = subprocess.Popen(
            ["/bin/bash", "-c", script],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(PATIENCE)
    finally:
        # Only what a failed run left behind is still there.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return printed.read_text(encoding="utf-8")
