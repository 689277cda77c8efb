"""Refuses to keep refresh tokens that may rotate in a store that is lost before they are."""

from __future__ import annotations

from sidecar.config.context import Context
from sidecar.config.mounts import VOLATILE, Mounts
from sidecar.config.settings import Settings


def check(settings: Settings, mounts: Mounts, context: Context) -> None:
    """Report a volatile store: with it goes the only copy of a rotated refresh token."""
    rotating = sorted(name for name, profile in settings.profiles.items() if profile.may_rotate)
    where = _volatile(settings, mounts)
    if not rotating or where is None or settings.allow_volatile_store:
        return
    text = (
        f"is {where}, and lost with the pod or at reboot; lost with it are the refresh tokens of "
        f"{', '.join(rotating)}, which may rotate; write `store: sqlite:///PATH` with a path on a volume, or "
        "accept the loss with `allow_volatile_store: true`"
    )
    context.error(("store",), text)


def _volatile(settings: Settings, mounts: Mounts) -> str | None:
    path = settings.store.sqlite_path
    if path is None:
        return "in memory" if settings.store.scheme == "memory" else None
    kind = mounts.kind(path)
    return f"on {kind} ({path})" if kind in VOLATILE else None
