"""An output in a directory of its own, and what it takes to publish to it without an event loop."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sidecar.config.settings import FileMode, OutputTarget
from sidecar.outputs import open_output
from sidecar.outputs.file import FileOutput
from sidecar.ports import Holding, Publication
from sidecar.tokens import AccessToken, ExpirySource, RefreshToken

ISSUED_AT = 1_700_000_000.0


class HandClock:
    """Clocks that are set by hand."""

    def __init__(self) -> None:
        self.now = ISSUED_AT

    def wall(self) -> float:
        """Return what was set."""
        return self.now

    boot = monotonic = wall


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never suspends; proves that it doesn't, and works in forked children."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("file outputs must not wait for anything")


def publication(generation: int = 1, **access: Any) -> Publication:
    """Make a publication whose token tells its generation and whose length changes with it."""
    values: dict[str, Any] = {
        "value": f"sim-at-{generation:016d}-" + "x" * (generation * 997 % 9000),
        "issued_at": ISSUED_AT,
        "expires_at": ISSUED_AT + 3600 + generation,
        "ttl": 3600.0,
        "expiry_source": ExpirySource.ANSWER,
    }
    return Publication(
        token="gmail",
        access=AccessToken(**(values | access)),
        refresh=RefreshToken(value="sim-rt-0123456789abcdef", issued_at=ISSUED_AT),
        lineage="a" * 32,
        generation=generation,
    )


class Place(NamedTuple):
    """A directory with an output in it, and the `state_dir` beside it."""

    folder: Path
    state_dir: Path
    clock: HandClock

    @property
    def file(self) -> Path:
        """The file that readers open."""
        return self.folder / "token.json"

    def open(self, **options: Any) -> FileOutput:
        """Open the output, as a daemon that starts does."""
        values: dict[str, Any] = {"file": self.file, "mode": FileMode(0o640)}
        values |= {"netrc": {"machine": "api.example"}, "template": {"template": "{{ access_token }}"}}.get(
            options.get("format", ""), {}
        )
        target = OutputTarget(**(values | options))
        output = open_output(target, state_dir=self.state_dir, clock=self.clock)
        assert isinstance(output, FileOutput)
        return output

    def publish(self, output: FileOutput, made: Publication) -> bool:
        """Publish without an event loop."""
        return bool(drive(output.publish(made)))

    def read_back(self, output: FileOutput) -> Holding:
        """Read back without an event loop."""
        holding = drive(output.read_back())
        assert isinstance(holding, Holding)
        return holding

    def leftovers(self) -> list[str]:
        """List whatever is in the directory besides the token."""
        return sorted(path.name for path in self.folder.iterdir() if path != self.file)


@pytest.fixture
def place() -> Iterator[Place]:
    """Make the directories, on a tmpfs where there is one, traversable for other users."""
    shm = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    root = Path(tempfile.mkdtemp(prefix="outputs-", dir=shm if os.access(shm, os.W_OK) else None))
    root.chmod(0o755)
    (root / "tokens").mkdir()
    try:
        yield Place(root / "tokens", root / "state", HandClock())
    finally:
        shutil.rmtree(root)


@pytest.fixture
def make() -> Callable[..., Publication]:
    """Make publications."""
    return publication
