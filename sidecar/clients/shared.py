"""The clients that all adapters of a daemon share; each is imported and made by whoever needs it first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

import anyio

from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clients.aws import SecretsManager
    from sidecar.clients.kubernetes import Kubernetes
    from sidecar.clients.postgres import Postgres


class SharedClients:
    """Nothing is connected before something is asked, and everything is closed at the end."""

    def __init__(self) -> None:
        """Make nothing yet."""
        self._kubernetes: Kubernetes | None = None
        self._databases: dict[tuple[str, Path | None], Postgres] = {}
        self._secrets_manager: SecretsManager | None = None

    @property
    def kubernetes(self) -> Kubernetes:
        """The client of the Kubernetes API. Raises `ConfigError` where its library is not installed."""
        if self._kubernetes is None:
            try:
                from sidecar.clients.kubernetes import Kubernetes
            except ModuleNotFoundError as missing:
                if missing.name != "lightkube":
                    raise
                raise ConfigError(
                    "Kubernetes is spoken by the extra `kubernetes`: pip install 'token-sidecar[kubernetes]'"
                ) from None
            self._kubernetes = Kubernetes()
        return self._kubernetes

    def database(self, url: str | None, url_file: Path | None) -> Postgres:
        """One connection to an application's PostgreSQL database, for all that is asked of it.

        Raises `ConfigError` where the library is missing, or there is no usable URL. From `url_file` user and password
        are read again for every new connection.
        """
        try:
            from sidecar.clients import postgres
        except ModuleNotFoundError as missing:
            if missing.name != "asyncpg":
                raise
            raise ConfigError(
                "PostgreSQL is spoken by the extra `postgres`: pip install 'token-sidecar[postgres]'"
            ) from None
        text = url if url_file is None else _read(url_file)
        target = postgres.parse(text or "", what="database")
        login = partial(postgres.reread, url_file, what="database") if url_file is not None else None
        key = (target.place if login is not None else text or "", url_file)
        return self._databases.setdefault(key, postgres.Postgres(target, login=login))

    @property
    def secrets_manager(self) -> SecretsManager:
        """The client of AWS Secrets Manager. Raises `ConfigError` where its library is not installed."""
        if self._secrets_manager is None:
            try:
                from sidecar.clients.aws import SecretsManager
            except ModuleNotFoundError as missing:
                if missing.name not in {"aiobotocore", "botocore"}:
                    raise
                raise ConfigError(
                    "AWS Secrets Manager is spoken by the extra `aws`: pip install 'token-sidecar[aws]'"
                ) from None
            self._secrets_manager = SecretsManager()
        return self._secrets_manager

    async def __aenter__(self) -> Self:
        """Connect to nothing: a daemon starts while an API is away."""
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Close what was opened."""
        for client in (self._kubernetes, self._secrets_manager):
            if client is not None:
                await client.__aexit__(*reason)
        # At once: each may have to wait for a call that is not answered.
        async with anyio.create_task_group() as tasks:
            for database in self._databases.values():
                tasks.start_soon(database.close)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{path} can't be read: {reason}; write the database's URL into it") from None
