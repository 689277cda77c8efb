"""Where tokens are published; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.config.settings import OutputTarget
    from sidecar.ports import Output

__all__ = ["open_output"]


def open_output(target: OutputTarget, *, state_dir: Path, clock: Clock) -> Output:
    """Make ready to publish to `target`; touches nothing but leftovers of killed writers.

    Raises `ConfigError` when the format or its options contradict each other. That a directory is missing or
    not writable shows when something is published: it may be mounted later.
    """
    from sidecar.outputs.file import FileOutput

    return FileOutput(target, state_dir=state_dir, clock=clock)
