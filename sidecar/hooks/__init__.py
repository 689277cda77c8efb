"""Who is told of a new token; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from sidecar.clients.shared import SharedClients
    from sidecar.clock import Clock
    from sidecar.config.settings import HookSettings
    from sidecar.ports import Hook

__all__ = ["open_hook"]


def open_hook(settings: HookSettings, *, namespace: str, clock: Clock, clients: SharedClients) -> Hook:
    """Make ready to tell; asks nobody yet. `namespace` is that of the records, which tells daemons apart.

    Raises `ConfigError` where a library is missing.
    """
    if settings.rollout_restart is None:
        raise ConfigError("a hook says nothing of what it does")
    api = clients.kubernetes
    from sidecar.hooks.rollout_restart import RolloutRestartHook

    return RolloutRestartHook(
        settings.rollout_restart, api, by_lineage=settings.when == "lineage", namespace=namespace, clock=clock
    )
