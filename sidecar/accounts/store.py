"""Each record that begins so is an account: whoever has a grant in the store is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.ports import Accounts, Store


class StoreAccounts:
    """The records of the store itself. See `Accounts` for the contract."""

    def __init__(self, store: Store, prefix: str) -> None:
        """`prefix`: what the keys of the records begin with."""
        self.id = f"records {prefix}… in the {store.kind} store"
        self._store = store
        self._prefix = prefix

    async def names(self) -> list[str]:
        """See `Accounts.names`."""
        return [key[len(self._prefix) :] for key in await self._store.keys(self._prefix)]


_: type[Accounts] = StoreAccounts
