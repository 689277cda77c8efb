"""The accounts are rows of the application's own database: whoever it lists is served."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.errors import AccountsError, ConfigError

try:
    from sidecar.clients import postgres
except ModuleNotFoundError as missing:
    if missing.name != "asyncpg":
        raise
    raise ConfigError(
        "PostgreSQL is spoken by the extra `postgres`: pip install 'token-sidecar[postgres]'"
    ) from None

if TYPE_CHECKING:
    from sidecar.config import settings
    from sidecar.ports import Accounts

PATIENCE = 30.0
"""Seconds for the whole question: a long list takes a while, and nobody waits for it."""


class SqlAccounts:
    """One SELECT. See `Accounts` for the contract."""

    def __init__(self, chosen: settings.SqlAccounts) -> None:
        """Raises `ConfigError` for a URL that can't be used; one in a file is read when it is needed."""
        self._chosen = chosen
        self._database: postgres.Postgres | None = None
        self._target: postgres.Target | None = None
        self.id = "accounts by SQL"
        if chosen.url is not None:
            self._target = postgres.parse(chosen.url)

    async def names(self) -> list[str]:
        """See `Accounts.names`. What is no text is written as PostgreSQL's driver reads it; NULL is nobody."""
        reason, rows = "", []
        try:
            rows = await self._opened().fetch(self._chosen.query)
        except postgres.Fault as fault:
            reason = f"{fault.reason}; {fault.remedy}"
        except ConfigError as error:
            reason = str(error)
        if reason:
            raise AccountsError(f"{self.id}: {reason}")
        return [str(row[0]) for row in rows if len(row) and row[0] is not None]

    def _opened(self) -> postgres.Postgres:
        target = self._login()
        if self._database is None or target.place != self._database.target.place:
            self._database = postgres.Postgres(target, login=self._login, patience=PATIENCE)
        return self._database

    def _login(self) -> postgres.Target:
        if self._target is not None:
            return self._target
        path, problem = self._chosen.url_file, ""
        try:
            return postgres.parse(path.read_text(encoding="utf-8").strip() if path is not None else "")
        except OSError as error:
            problem = f"{path} can't be read: {error.strerror}"
        except (ConfigError, ValueError):
            problem = f"{path} holds no usable URL"
        raise postgres.Fault(problem, "write the database's URL into it")

    async def close(self) -> None:
        """Close the connection."""
        if self._database is not None:
            with suppress(postgres.Fault):
                await self._database.close()


_: type[Accounts] = SqlAccounts
