"""Where tokens are published; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.config.members import ACCOUNT
from sidecar.errors import ConfigError, FormatError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.clients.shared import SharedClients
    from sidecar.clock import Clock
    from sidecar.config.settings import OutputTarget
    from sidecar.formats.contents import Format
    from sidecar.ports import Output, Publication, RemoteOutput

__all__ = ["encoded", "open_output", "open_remote_output", "sweep_all", "withdraw_forgotten"]


def open_output(target: OutputTarget, *, state_dir: Path, clock: Clock, like: Output | None = None) -> Output:
    """Make ready to publish to a file; touches nothing but leftovers of killed writers.

    `like`: another account's, with which it shares what is the same. Then not even leftovers are touched: `sweep_all`
    sees to those of all accounts at once.

    Raises `ConfigError` when the format or its options contradict each other. That a directory is missing or
    not writable shows when something is published: it may be mounted later.
    """
    from sidecar.outputs.file import FileOutput

    if target.file is None:
        raise ConfigError("an output names no file")
    return FileOutput(target, target.file, state_dir=state_dir, clock=clock, like=like)


def open_remote_output(
    target: OutputTarget, *, state_dir: Path, clock: Clock, clients: SharedClients
) -> RemoteOutput:
    """Make ready to publish to a place behind a network; asks nobody yet.

    Raises `ConfigError` as `open_output` does, and where a library is missing.
    """
    if target.aws_secret is not None:
        manager = clients.secrets_manager
        from sidecar.outputs.aws_secret import AwsOutput

        return AwsOutput(target, target.aws_secret, manager, state_dir=state_dir, clock=clock)
    if target.sql is not None:
        database = clients.database(target.sql.url, target.sql.url_file)
        from sidecar.clients.rows import Row
        from sidecar.outputs.sql import TableOutput

        row = Row(database, target.sql)
        return TableOutput(target, target.sql, row, state_dir=state_dir, clock=clock)
    if target.kubernetes_secret is None:
        raise ConfigError("an output names no place")
    api = clients.kubernetes
    from sidecar.outputs.kubernetes_secret import SecretOutput

    return SecretOutput(target, target.kubernetes_secret, api, state_dir=state_dir, clock=clock)


def withdraw_forgotten(state_dir: Path, is_forgotten: Callable[[Path], bool]) -> list[str]:
    """Remove the files that were published from this `state_dir` and that nobody publishes any more.

    `is_forgotten` is asked for each. Returns what is left all the same, and why, in words.
    """
    from sidecar.outputs.file import withdraw
    from sidecar.outputs.index import Index, published

    paths = [Path(place) for place in published(state_dir) if place.startswith("/")]
    left = [withdraw(path, Index(state_dir, path)) for path in paths if is_forgotten(path)]
    return [problem for problem in left if problem]


def sweep_all(state_dir: Path, patterns: Sequence[Path]) -> bool:
    """Remove what killed writers left beside the files of all accounts; return whether nothing of the kind remains.

    `patterns` are the files, with `{account}` in their names.
    """
    from sidecar.files import sweep
    from sidecar.outputs.index import FOLDER

    places = [(pattern.parent, pattern.name) for pattern in patterns]
    found = [sweep(folder, name, any_part=ACCOUNT) for folder, name in places]
    return all([*found, sweep(state_dir / FOLDER, f"{ACCOUNT}.json", any_part=ACCOUNT)])


def encoded(publication: Publication, layout: Format, target: OutputTarget, output: str) -> bytes:
    """Lay a token out for the output of this id. Raises `OutputError` where the format can't hold it."""
    try:
        return layout.encode(publication, include_refresh_token=target.include_refresh_token)
    except FormatError as error:
        raise OutputError(f"{output}: cannot be written as `{layout.name}`: {error}") from None
