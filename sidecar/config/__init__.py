"""From the configuration file to `Settings`, or to every problem of it, one line each.

The way through: text → document.py (a tree with places) → decode.py (`ConfigFile`) → resolve.py (`Settings`)
→ contradictions.py, sets.py, durability.py, surroundings.py (what can't be right). Each step reports what it finds,
leaves it out and goes on, so that one run names everything. What the seeds and secrets named here hold is not
looked at: that is for the layers that read them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from sidecar.config import console, contradictions, document, durability, sets, surroundings
from sidecar.config.context import Context
from sidecar.config.decode import decode
from sidecar.config.mounts import Mounts
from sidecar.config.report import Report
from sidecar.config.resolve import resolve
from sidecar.config.settings import Settings, TokenSettings
from sidecar.errors import ConfigError

__all__ = ["DEFAULT_PATH", "Loaded", "Settings", "default_path", "load"]

VARIABLE = "TOKEN_SIDECAR_CONFIG"
DEFAULT_PATH = Path("/etc/token-sidecar/config.yaml")
USUAL_NAME = "token-sidecar.yaml"
"""What `init` calls the file that it writes."""


class Loaded(msgspec.Struct, frozen=True):
    """A valid configuration."""

    settings: Settings
    warnings: tuple[str, ...]
    """What the daemon can run with, one line each, with its place."""
    context: Context
    """For later checks: `context.line(("tokens", "gmail", "seed"), "is no JSON")` is such a line."""


def default_path(env: Mapping[str, str] = os.environ) -> Path:
    """Return the file that is read when none is named."""
    return Path(env.get(VARIABLE) or DEFAULT_PATH)


def load(
    path: Path | None = None,
    *,
    env: Mapping[str, str] = os.environ,
    disk: bool = True,
    publishes: bool = True,
    also: Callable[[Settings, Context], None] | None = None,
) -> Loaded:
    """Read, expand and check a configuration file.

    `disk=False` leaves out what depends on this machine: which files exist, and who may read and write them.
    `publishes=False` leaves out seeds, outputs and hooks alone: for a process that has nothing to do with them.
    `also` reports what layers above know to be wrong, so that it comes out in the same run.
    Raises `ConfigError` with every problem, each beginning with the file's name and place.
    """
    path = path or default_path(env)
    report = Report(str(path))
    root = document.parse(_read(path), report, env)
    if root is None:
        report.check()
        raise AssertionError("unreachable: what can't be read is reported")
    absolute = path.absolute()
    decoded = decode(root, report, absolute.parent, env)
    context = Context(absolute, decoded.tree, report, env, disk)
    settings = resolve(decoded.file, context)
    contradictions.check(settings, context)
    console.check(settings, context)
    sets.check(settings, context)
    mounts = Mounts.read() if disk else Mounts({})
    durability.check(settings, mounts, context)
    if disk:
        surroundings.check(settings if publishes else _silent(settings), mounts, context)
    if also is not None:
        also(settings, context)
    report.check()
    return Loaded(settings, report.warnings, context)


def _silent(settings: Settings) -> Settings:
    def silent(entries: dict[str, TokenSettings]) -> dict[str, TokenSettings]:
        return {
            name: msgspec.structs.replace(one, seed=None, outputs=(), after_refresh=())
            for name, one in entries.items()
        }

    return msgspec.structs.replace(settings, tokens=silent(settings.tokens), sets=silent(settings.sets))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(document.MAX_BYTES + 1)
    except FileNotFoundError:
        way_out = (
            f"{USUAL_NAME} is in this directory; name it with --config or ${VARIABLE}"
            if Path(USUAL_NAME).is_file()
            else f"write one with `token-sidecar init`, or name yours with --config or ${VARIABLE}"
        )
        raise ConfigError(f"{path}: there is no such file; {way_out}") from None
    except OSError as fault:
        raise ConfigError(
            f"{path}: can't be read: {fault.strerror}; is it the right file, and its mode?"
        ) from None
