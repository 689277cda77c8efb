"""The clients that all adapters of a daemon share; each is imported and made by whoever needs it first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from sidecar.clients.kubernetes import Kubernetes


class SharedClients:
    """Nothing is connected before something is asked, and everything is closed at the end."""

    def __init__(self) -> None:
        """Make nothing yet."""
        self._kubernetes: Kubernetes | None = None

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

    async def __aenter__(self) -> Self:
        """Connect to nothing: a daemon starts while an API is away."""
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Close what was opened."""
        if self._kubernetes is not None:
            await self._kubernetes.__aexit__(*reason)
