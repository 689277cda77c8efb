"""Where records are kept: one adapter a file, chosen by the scheme of a URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from sidecar.errors import ConfigError
from sidecar.seal import CLEAR

if TYPE_CHECKING:
    from sidecar.clients.shared import SharedClients
    from sidecar.clock import Clock
    from sidecar.ports import Sealer, Store

ADAPTERS = {
    "aws-secretsmanager": "sidecar.stores.aws",
    "kubernetes": "sidecar.stores.kubernetes",
    "memory": "sidecar.stores.memory",
    "postgres": "sidecar.stores.postgres",
    "postgresql": "sidecar.stores.postgres",
    "sqlite": "sidecar.stores.sqlite",
}
"""URL scheme → the module that has its `from_url`; imported only when it is named."""

EXAMPLES = {
    "aws-secretsmanager": "aws-secretsmanager://PREFIX",
    "kubernetes": "kubernetes://NAMESPACE/NAME-PREFIX",
    "memory": "memory:",
    "postgres": "postgres://USER@HOST/DATABASE",
    "postgresql": "postgresql://USER@HOST/DATABASE",
    "sqlite": "sqlite:///var/lib/token-sidecar/tokens.db",
}


def open_store(  # noqa: PLR0913 - each store makes use of some of them
    url: str,
    clock: Clock,
    sealer: Sealer = CLEAR,
    *,
    url_file: Path | None = None,
    create: bool = True,
    clients: SharedClients | None = None,
    namespace: str = "default",
    delete_dead: bool = False,
) -> Store:
    """Make the store that `url` names, its records sealed by `sealer`.

    Nothing is read or created before its `async with`.

    `url_file` is where the URL was read from, if from a file: a store that logs in reads its password there anew.
    Without `create`, a store that is not there yet is `StoreMissing` from `async with`. `clients` are those of the
    daemon, and `namespace` is the configuration's, for a store in which others leave what is ours. `delete_dead`: see
    `StoreSettings`.

    Raises `ConfigError` for a scheme that no adapter has and for a URL that its adapter refuses. The URL may
    hold a password, so that no message repeats more of it than its scheme.
    """
    make = cast("Callable[..., Store]", _adapter(url).from_url)
    return make(
        url,
        clock,
        sealer,
        url_file=url_file,
        create=create,
        clients=clients,
        namespace=namespace,
        delete_dead=delete_dead,
    )


def migration(url: str) -> str:
    """Return the SQL that makes or updates the store's tables; empty for a store that others can't prepare.

    Raises `ConfigError` as `open_store` does.
    """
    write = getattr(_adapter(url), "migration", None)
    return cast("str", write(url)) if write is not None else ""


def _adapter(url: str) -> ModuleType:
    scheme, colon, _ = url.partition(":")
    module = ADAPTERS.get(scheme.lower()) if colon else None
    if module is None:
        raise ConfigError(_unknown(scheme if colon else ""))
    return import_module(module)


def _unknown(scheme: str) -> str:
    known = (
        f"store: {scheme!r} is not a kind of store"
        if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+-]{0,30}", scheme)
        else ("store: the URL does not begin with a kind of store")
    )
    available = ", ".join(f"{name} ({EXAMPLES[name]})" for name in sorted(ADAPTERS))
    return f"{known}; available: {available}"
