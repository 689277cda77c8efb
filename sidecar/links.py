"""Where the console shows a token: the one place that knows how its name is written into a path."""

from __future__ import annotations

from urllib.parse import quote


def token(name: str) -> str:
    """Return the path of a token's page. A member of a set has its account, which may be any text, behind a slash."""
    entry, slash, account = name.partition("/")
    return f"/tokens/{quote(entry)}{slash}{quote(account, safe='')}"


def page(url: str | None, name: str) -> str:
    """Return the URL of a token's page, under the console's own URL; empty where there is no console."""
    return f"{url}{token(name)}" if url else ""
