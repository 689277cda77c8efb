"""Who the accounts of a set are; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.clients.shared import SharedClients
    from sidecar.config import Settings
    from sidecar.ports import Accounts, Store

__all__ = ["open_accounts"]


def open_accounts(settings: Settings, of: str, store: Store, clients: SharedClients) -> Accounts:
    """Make ready to ask for the accounts of the set `of`; asks nobody yet. Raises `ConfigError`."""
    chosen = settings.sets[of].for_each
    if chosen is not None and chosen.sql is not None:
        database = clients.database(chosen.sql.url, chosen.sql.url_file)
        from sidecar.accounts.sql import SqlAccounts

        return SqlAccounts(chosen.sql.query, database)
    from sidecar.accounts.store import StoreAccounts

    return StoreAccounts(store, settings.prefix_of(of))
