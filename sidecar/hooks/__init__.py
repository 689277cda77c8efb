"""Who is told of a new token; an adapter is imported only when the configuration names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.clients.http import HttpClient
    from sidecar.clients.shared import SharedClients
    from sidecar.clock import Clock
    from sidecar.config.settings import HookSettings
    from sidecar.ports import Hook

__all__ = ["open_hook"]


def open_hook(  # noqa: PLR0913 - one for each thing that a hook may speak of, or through
    settings: HookSettings,
    *,
    token: str,
    files: Sequence[str],
    namespace: str,
    state_dir: Path,
    clock: Clock,
    http: HttpClient,
    clients: SharedClients,
) -> Hook:
    """Make ready to tell; asks nobody yet.

    `token` is the configured name, `files` are those that it is published to, `namespace` is that of the records,
    which tells daemons apart. Raises `ConfigError` where a library is missing.
    """
    if settings.http is not None:
        from sidecar.hooks.http import HttpHook

        return HttpHook(settings, settings.http, http, token=token, state_dir=state_dir, files=files)
    if settings.exec is not None:
        from sidecar.hooks.exec import ExecHook

        return ExecHook(settings, settings.exec, token=token, state_dir=state_dir, files=files)
    if settings.signal is not None:
        from sidecar.hooks.signal import SignalHook

        return SignalHook(settings, settings.signal, token=token, state_dir=state_dir)
    if settings.rollout_restart is not None:
        api = clients.kubernetes
        from sidecar.hooks.rollout_restart import RolloutRestartHook

        return RolloutRestartHook(settings, settings.rollout_restart, api, namespace=namespace, clock=clock)
    raise ConfigError("a hook says nothing of what it does")
