"""Configurations in a directory of their own, and a way to look at them as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import sidecar.config.explain  # noqa: F401 - the child that gave up its rights may not be able to import it
from sidecar.config import Loaded, load
from sidecar.errors import ConfigError

NOBODY = 65534


class Place:
    """A directory with a configuration in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "config.yaml"
        self.env: dict[str, str] = {"RUNTIME_DIRECTORY": str(directory / "state")}

    def write(self, name: str, text: str = "", mode: int = 0o600) -> Path:
        """Make a file, which is no link and has this mode whatever the umask."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def load(self, text: str, *, disk: bool = False, **env: str) -> Loaded:
        """Load this text as the configuration."""
        self.file.write_text(dedent(text))
        return load(self.file, env=self.env | env, disk=disk)

    def problems(self, text: str | bytes, *, disk: bool = False, **env: str) -> list[str]:
        """Load this text, which is wrong, and return what is said without the directory's name."""
        self.file.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
        with pytest.raises(ConfigError) as caught:
            load(self.file, env=self.env | env, disk=disk)
        return [line.replace(f"{self.directory}/", "") for line in caught.value.problems]

    def warnings(self, text: str, *, disk: bool = False) -> list[str]:
        """Load this text and return the warnings without the directory's name."""
        return [line.replace(f"{self.directory}/", "") for line in self.load(text, disk=disk).warnings]

    def as_nobody(self, text: str) -> list[str]:
        """Load this text and look at the disk as a user without rights; return problems, else warnings."""
        self.file.write_text(dedent(text))
        self.file.chmod(0o644)
        found: list[str] = in_child(lambda: _load(self))
        return [line.replace(f"{self.directory}/", "") for line in found]


def _load(place: Place) -> list[str]:
    try:
        return list(load(place.file, env=place.env).warnings)
    except ConfigError as fault:
        return fault.problems


def in_child(work: Callable[[], list[str]]) -> list[str]:
    """Do something in a process that can't come back from being nobody (root reads and writes everything)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    found: list[str] = json.loads(answer)
    return found


@pytest.fixture
def place() -> Iterator[Place]:
    """Make a directory that every user can reach; pytest's own is private."""
    directory = Path(tempfile.mkdtemp(prefix="sidecar-config-"))
    directory.chmod(0o755)
    (directory / "out").mkdir()
    (directory / "state").mkdir()
    (directory / "state").chmod(0o777)
    (directory / "out").chmod(0o1777)
    yield Place(directory)
    shutil.rmtree(directory)
