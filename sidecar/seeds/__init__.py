"""Where operators leave refresh tokens; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar import formats
from sidecar.errors import FormatError, SeedError
from sidecar.ports import Seeding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.settings import SeedSource
    from sidecar.ports import Seed

__all__ = ["open_seed", "parse", "read_seed"]


def open_seed(source: SeedSource) -> Seed:
    """Make ready to read `source`; touches nothing yet."""
    from sidecar.seeds.file import FileSeed

    return FileSeed(source)


def read_seed(source: SeedSource) -> Seeding | None:
    """Read `source` once; None while it is missing or empty. Raises `SeedError`."""
    from sidecar.seeds.file import FileSeed

    return FileSeed(source).look()


def parse(
    data: bytes,
    *,
    where: str,
    name: str | None = None,
    fields: Mapping[str, str] | None = None,
    written_at: float,
) -> Seeding:
    """Understand a seed, wherever it came from: a file, or standard input of `token-sidecar seed`.

    `where` names it in messages, `name` its format (None: recognised), `fields` members that are called
    otherwise than usual, `written_at` is when it was written, as far as that is known. Its access token is
    kept only if the content itself says when that expires: the age of a mounted or copied file says nothing.
    Raises `SeedError`.
    """
    try:
        return _understood(data, name, fields, written_at)
    except FormatError as error:
        raise SeedError(
            f"{where}: {error}; a seed is a bare refresh token, a line `REFRESH_TOKEN=…`, or JSON with a "
            "`refresh_token`, as a token endpoint or a client library writes it"
        ) from None


def _understood(
    data: bytes, name: str | None, fields: Mapping[str, str] | None, written_at: float
) -> Seeding:
    contents = formats.seed_contents(data, name, fields)
    refresh = contents.refresh(written_at=written_at)
    if refresh is None:
        raise FormatError("no refresh token in it")
    return Seeding(refresh=refresh, access=contents.access(written_at=written_at, by_receiver=False))
