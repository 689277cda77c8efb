"""Where records are kept: one adapter a file, chosen by the scheme of a URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from sidecar.errors import ConfigError
from sidecar.seal import CLEAR

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.ports import Sealer, Store

ADAPTERS = {
    "memory": "sidecar.stores.memory",
    "sqlite": "sidecar.stores.sqlite",
}
"""URL scheme → the module that has its `from_url(url, clock, sealer) -> Store`; imported only when it is named."""

EXAMPLES = {
    "memory": "memory:",
    "sqlite": "sqlite:///var/lib/token-sidecar/tokens.db",
}


def open_store(url: str, clock: Clock, sealer: Sealer = CLEAR) -> Store:
    """Make the store that `url` names, its records sealed by `sealer`.

    Nothing is read or created before its `async with`.

    Raises `ConfigError` for a scheme that no adapter has and for a URL that its adapter refuses. The URL may
    hold a password, so that no message repeats more of it than its scheme.
    """
    scheme, colon, _ = url.partition(":")
    module = ADAPTERS.get(scheme.lower()) if colon else None
    if module is None:
        raise ConfigError(_unknown(scheme if colon else ""))
    make = cast("Callable[[str, Clock, Sealer], Store]", import_module(module).from_url)
    return make(url, clock, sealer)


def _unknown(scheme: str) -> str:
    known = (
        f"store: {scheme!r} is not a kind of store"
        if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+-]{0,30}", scheme)
        else ("store: the URL does not begin with a kind of store")
    )
    available = ", ".join(f"{name} ({EXAMPLES[name]})" for name in sorted(ADAPTERS))
    return f"{known}; available: {available}"
