"""What the checks know: the configuration, who looks, and what was found on the way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.cli.doctor.identity import Access, Identity
    from sidecar.clients.http import HttpClient
    from sidecar.config import Settings
    from sidecar.events import TokenView
    from sidecar.ports import Held
    from sidecar.tokens import Record


class Application(msgspec.Struct, frozen=True):
    """As whom the application runs, and what that user may read."""

    identity: Identity
    tried: bool
    """False: what follows was worked out from owners and modes."""
    access: dict[Path, Access]


class Examination(msgspec.Struct):
    """One run of `doctor`."""

    settings: Settings
    names: frozenset[str]
    """Every configured token, also those that were not asked for."""
    http: HttpClient
    clock: SystemClock
    store_known: bool = True
    """False: the file with the store's URL can't be read."""
    application: Application | None = None
    daemon: dict[str, Any] | None = None
    """Its status document; None: none answers."""
    held: dict[str, Held | None] | None = None
    """What the store holds of each token that could be read; None: the store could not be asked."""
    others: dict[str, Record] | None = None
    """The store's other records, as far as they could be read; None: it could not be asked."""
    views: list[TokenView] = []

    @property
    def stranger(self) -> bool:
        """Tell whether this user is neither the daemon's nor root, and so meets what the daemon would not."""
        owner = daemon_user(self.settings)
        return owner is not None and os.geteuid() not in {0, owner}


def daemon_user(settings: Settings) -> int | None:
    """Tell whose the daemon's files are; None while there are none."""
    # A volume's own directory may be root's, and the lock in it is the daemon's.
    for path in (settings.state_dir / "lock", settings.state_dir):
        try:
            return path.stat().st_uid
        except OSError:
            continue
    return None
