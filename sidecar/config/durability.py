"""Refuses to keep refresh tokens that may rotate in a store that is lost before they are."""

from __future__ import annotations

from sidecar.config.context import Context
from sidecar.config.mounts import VOLATILE, Mounts
from sidecar.config.settings import Settings


def check(settings: Settings, mounts: Mounts, context: Context) -> None:
    """Report a volatile store: with it goes the only copy of a rotated refresh token."""
    if context.report.spoilt("store"):
        # What stands in its place was never asked for, and what is said of it would lead astray.
        return
    where = _volatile(settings, mounts)
    for name, token in settings.entries.items():
        for index, hook in enumerate(token.after_refresh):
            if where is not None and hook.rollout_restart is not None:
                text = (
                    f"the store is {where}: a pod that comes from this restart would begin anew, and restart it again, "
                    "without end; keep records where they outlive the pod: `store: kubernetes://…` or postgresql://…"
                )
                context.error(("tokens", name, "after_refresh", index, "rollout_restart"), text)
    if where is None or settings.allow_volatile_store:
        return
    lost = f"is {where}, and lost with the pod or at reboot"
    cure = "write `store: sqlite:///PATH` with a path on a volume, or accept the loss with `allow_volatile_store: true`"
    rotating = sorted(name for name, profile in settings.profiles.items() if profile.may_rotate)
    if rotating:
        text = (
            f"{lost}; lost with it are the refresh tokens of {', '.join(rotating)}, which may rotate; {cure}"
        )
        context.error(("store",), text)
    # Theirs come from a human alone: there is no seed to begin with again.
    consented = sorted(
        name
        for name, token in settings.entries.items()
        if token.seed is None and settings.profiles[name].needs_refresh_token and name not in rotating
    )
    if consented:
        named = ", ".join(consented)
        text = f"{lost}; lost with it are the consents for {named}, for which no `seed` is configured; {cure}"
        context.warning(("store",), text)


def _volatile(settings: Settings, mounts: Mounts) -> str | None:
    path = settings.store.sqlite_path
    if path is None:
        return "in memory" if settings.store.scheme == "memory" else None
    kind = mounts.kind(path)
    return f"on {kind} ({path})" if kind in VOLATILE else None
