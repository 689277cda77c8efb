"""Where operators leave refresh tokens; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar import formats
from sidecar.errors import FormatError, SeedError
from sidecar.ports import Seeding
from sidecar.tokens import RefreshToken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.settings import SeedSource
    from sidecar.formats.contents import Contents
    from sidecar.ports import Seed

__all__ = ["open_seed", "parse", "read_seed"]


def open_seed(source: SeedSource, *, living: bool = False) -> Seed:
    """Make ready to read `source`; touches nothing yet. `living`: see `parse`."""
    from sidecar.seeds.file import FileSeed

    return FileSeed(source, living=living)


def read_seed(source: SeedSource, *, living: bool = False) -> Seeding | None:
    """Read `source` once; None while it is missing or empty. `living`: see `parse`. Raises `SeedError`."""
    from sidecar.seeds.file import FileSeed

    return FileSeed(source, living=living).look()


def parse(
    data: bytes,
    *,
    where: str,
    name: str | None = None,
    fields: Mapping[str, str] | None = None,
    written_at: float,
    living: bool = False,
) -> Seeding:
    """Understand a seed, wherever it came from: a file, or standard input of `token-sidecar seed`.

    `where` names it in messages, `name` its format (None: recognised), `fields` members that are called
    otherwise than usual, `written_at` is when it was written, as far as that is known. Its access token is
    kept only if the content itself says when that expires: the age of a mounted or copied file says nothing.
    `living`: the grant exchanges living access tokens, so that an access token serves as the refresh token.
    Raises `SeedError`.
    """
    try:
        contents = formats.seed_contents(data, name, fields)
        return _understood(contents, written_at, living=living)
    except FormatError as error:
        raise SeedError(
            f"{where}: {error}; a seed is a bare refresh token, a line `REFRESH_TOKEN=…`, or JSON with a "
            "`refresh_token`, as a token endpoint or a client library writes it"
        ) from None


def _understood(contents: Contents, written_at: float, *, living: bool) -> Seeding:
    access = contents.access(written_at=written_at, by_receiver=False)
    refresh = contents.refresh(written_at=written_at)
    if living and contents.access_token is not None:
        refresh = RefreshToken(
            contents.access_token,
            issued_at=access.issued_at if access else written_at,
            expires_at=access.expires_at if access else None,
        )
    if refresh is None:
        raise FormatError("no refresh token in it")
    return Seeding(refresh=refresh, access=access)
