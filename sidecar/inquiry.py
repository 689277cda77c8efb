"""An operation on the store, and what is told of it: whether it answered."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.errors import Conflict, RecordUnreadable, StoreError
from sidecar.events import StoreAsked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.events import Event


@contextmanager
def asking(store: str, emit: Callable[[Event], None]) -> Iterator[None]:
    """Tell how one operation on a store of this kind ends.

    That somebody else was faster is an answer, and so is a record that can't be read: of that the token tells.
    """
    try:
        yield
    except (Conflict, RecordUnreadable):
        emit(StoreAsked(store, "success"))
        raise
    except StoreError:
        emit(StoreAsked(store, "failed"))
        raise
    emit(StoreAsked(store, "success"))
