"""Where operators leave refresh tokens; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar import formats
from sidecar.errors import ConfigError, FormatError, SeedError
from sidecar.ports import Seeding
from sidecar.tokens import RefreshToken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.clients.shared import SharedClients
    from sidecar.clock import Clock
    from sidecar.config.settings import SeedSource
    from sidecar.formats.contents import Contents
    from sidecar.ports import Seed

__all__ = ["open_seed", "parse", "parse_named", "read_seed_file"]


def open_seed(source: SeedSource, *, clock: Clock, clients: SharedClients, living: bool = False) -> Seed:
    """Make ready to read `source`; touches nothing yet. `living`: see `parse`.

    Raises `ConfigError` where a library is missing.
    """
    if source.kubernetes_secret is not None:
        api = clients.kubernetes
        from sidecar.seeds.kubernetes_secret import SecretSeed

        return SecretSeed(source, source.kubernetes_secret, api, clock=clock, living=living)
    if source.aws_secret is not None:
        manager = clients.secrets_manager
        from sidecar.seeds.aws_secret import AwsSeed

        return AwsSeed(source, source.aws_secret, manager, clock=clock, living=living)
    if source.sql is not None:
        database = clients.database(source.sql.url, source.sql.url_file)
        from sidecar.clients.rows import Row
        from sidecar.seeds.sql import RowSeed

        return RowSeed(source, source.sql, Row(database, source.sql), clock=clock, living=living)
    from sidecar.seeds.file import FileSeed

    if source.file is None:
        raise ConfigError("a seed names no place")
    return FileSeed(source, source.file, living=living)


def read_seed_file(source: SeedSource, path: Path, *, living: bool = False) -> Seeding | None:
    """Read a file once; None while it is missing or empty. `living`: see `parse`. Raises `SeedError`."""
    from sidecar.seeds.file import FileSeed

    return FileSeed(source, path, living=living).look()


def parse_named(
    data: bytes, source: SeedSource, *, place: str, named: str, written_at: float, living: bool
) -> Seeding:
    """Understand the content of a `source` that has a name; `place` is for messages. Raises `SeedError`."""
    if (
        source.format is None
        and named.endswith(".json")
        and not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    ):
        # Any single word could be a bare refresh token; what calls itself JSON is not one by accident.
        raise SeedError(
            f"{place}: is no JSON object although its name ends in .json; correct its content, or say "
            "`format: raw` beside it if it is a bare refresh token"
        )
    return parse(
        data, where=place, name=source.format, fields=source.fields, written_at=written_at, living=living
    )


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
