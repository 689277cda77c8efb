"""The accounts are rows of the application's own database: whoever it lists is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clients.postgres import Fault
from sidecar.errors import AccountsError

if TYPE_CHECKING:
    from sidecar.clients.postgres import Postgres
    from sidecar.ports import Accounts


class SqlAccounts:
    """One SELECT. See `Accounts` for the contract."""

    def __init__(self, query: str, database: Postgres) -> None:
        """`query`: its first column is the accounts' names."""
        self.id = f"accounts in postgresql://{database.target.place}"
        self._query = query
        self._database = database

    async def names(self) -> list[str]:
        """See `Accounts.names`. What is no text is written as Python writes it; NULL is nobody."""
        reason, rows = "", []
        try:
            rows = await self._database.fetch(self._query)
        except Fault as fault:
            reason = f"{fault.reason}; {fault.remedy}"
        if reason:
            # Raised here, where nothing is handled: it would come along.
            raise AccountsError(f"{self.id}: {reason}")
        return [str(row[0]) for row in rows if len(row) and row[0] is not None]


_: type[Accounts] = SqlAccounts
