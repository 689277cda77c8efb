"""One entry of the configuration for many accounts: what a member is called, and what `{account}` becomes for it.

An account's name is somebody else's text. It may be meant to climb out of a directory, to name another account's file
or to end a metric's label, so that it is written down in one place alone: here. Each spelling can be read back in one
way only, so that no two accounts ever share a file or an object; a name that would be too long for its place is cut,
and told apart by its digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from sidecar.errors import ConfigError

ACCOUNT = "{account}"
SLASH = "/"
"""Between a set's name and the account's; no plain token has one in its name."""
ALL = "*"
"""Stands for all members that are not told of one by one, as in the metrics' `token="gmail/*"`."""
LONGEST = 255
"""Bytes of an account's name."""
SPARE = 100
"""Characters that a place must leave to the account's name: as many as its digest takes, and some to recognise it."""

Steps = tuple[str | int, ...]
Part = TypeVar("Part", bound=msgspec.Struct)


class Spelling(NamedTuple):
    """How an account's name is written in one kind of place."""

    kept: str
    """A regular expression's class: what stays as it is. Each byte of the rest is `mark` and two hexadecimal digits."""
    mark: str
    limit: int
    """Of the whole name that it becomes a part of, in characters, all of which are ASCII."""
    lower: bool = False
    """Whether the digits are written in lower case."""


SPELLINGS = {
    "file": Spelling(r"[A-Za-z0-9._@+-]", "%", 255),
    "object": Spelling(r"[a-z0-9]|(?<=[a-z0-9])\.(?=[a-z0-9])", "-", 253, lower=True),
    "key": Spelling(r"[A-Za-z0-9.-]", "_", 253),
    "aws": Spelling(r"[A-Za-z0-9/_+.@-]", "=", 512),
    "url": Spelling(r"[A-Za-z0-9._~-]", "%", 8192),
}
"""Kind of place → spelling: a file's name, an object's in Kubernetes, a key of a Secret, a secret's name at AWS, a part
of a URL. In places of the kind `text` a name stands as it is, because nothing there reads more into it."""
TEXT = "text"


def problem_of(account: str) -> str:
    """Say why no account may be called so; empty: it may."""
    if not account:
        return "is empty"
    if len(account.encode(errors="surrogatepass")) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if not account.isprintable():
        return "has characters in it that can't be printed"
    return "stands for all accounts here" if account == ALL else ""


def spelt(account: str, kind: str, room: int | None = None) -> str:
    """Write an account's name for one kind of place; `room`: how many characters it may have there."""
    if kind == TEXT:
        return account
    spelling = SPELLINGS[kind]
    room = spelling.limit if room is None else room
    shown = re.sub(rf"({spelling.kept})|(.)", lambda found: found[1] or _escaped(found[2], spelling), account)
    if shown.startswith("."):
        # Neither hidden, nor this directory, nor the one above.
        shown = _escaped(".", spelling) + shown[1:]
    if len(shown) <= room:
        return shown
    digest = f"{spelling.mark}-{hashlib.sha256(account.encode()).hexdigest()}"
    return shown[: room - len(digest)].rstrip(".") + digest


def _escaped(text: str, spelling: Spelling) -> str:
    digits = "02x" if spelling.lower else "02X"
    return "".join(f"{spelling.mark}{byte:{digits}}" for byte in text.encode())


def filled(text: str, account: str, kind: str) -> str:
    """Put an account's name into a text of the configuration that has `{account}` in it."""
    rest = len(text) - len(ACCOUNT)
    return text.replace(ACCOUNT, spelt(account, kind, None if kind == TEXT else SPELLINGS[kind].limit - rest))


def expanded(group: Part, account: str) -> Part:
    """Make a member's settings from those of its set.

    The groups say which of their fields take an account's name, and as which kind of place (`PER_ACCOUNT`). Raises
    `ConfigError` for a name that has no place there.
    """
    if problem := problem_of(account):
        raise ConfigError(f"the account {account[:40]!r} {problem}")
    kinds = getattr(group, "PER_ACCOUNT", {})
    changes = {}
    for name in group.__struct_fields__:
        before = getattr(group, name)
        after = _expanded(before, account, kinds.get(name))
        if after is not before:
            changes[name] = after
    return msgspec.structs.replace(group, **changes) if changes else group


def _expanded(value: Any, account: str, kind: str | None) -> Any:
    if isinstance(value, msgspec.Struct):
        return expanded(value, account)
    if isinstance(value, tuple):
        parts = tuple(_expanded(part, account, kind) for part in value)
        return parts if any(new is not old for new, old in zip(parts, value, strict=True)) else value
    if isinstance(value, dict):
        members = {key: _expanded(part, account, kind) for key, part in value.items()}
        return members if any(members[key] is not value[key] for key in value) else value
    if kind is None or ACCOUNT not in str(value):
        return value
    if isinstance(value, Path):
        return value.with_name(filled(value.name, account, kind))
    return filled(value, account, kind) if isinstance(value, str) else value


class Place(NamedTuple):
    """Where `{account}` is written."""

    steps: Steps
    text: str
    kind: str | None
    """What kind of place it is; None: nothing is put in its place there."""


def places(group: msgspec.Struct, steps: Steps = ()) -> Iterator[Place]:
    """Go through all texts of a group that have `{account}` in them."""
    kinds = getattr(group, "PER_ACCOUNT", {})
    for name in group.__struct_fields__:
        yield from _places(getattr(group, name), (*steps, name), kinds.get(name))


def _places(value: Any, steps: Steps, kind: str | None) -> Iterator[Place]:
    if isinstance(value, msgspec.Struct):
        yield from places(value, steps)
    elif isinstance(value, tuple | dict):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(part, (*steps, key), kind)
    elif isinstance(value, str | Path) and ACCOUNT in str(value):
        yield Place(steps, str(value), kind)


def may_meet(one: str, other: str) -> bool:
    """Tell whether two texts, of which either may have `{account}` in it, may come to be the same."""
    if ACCOUNT not in one:
        one, other = other, one
    before, account, after = one.partition(ACCOUNT)
    if not account:
        return one == other
    if ACCOUNT not in other:
        middle = len(other) - len(before) - len(after)
        return middle > 0 and other.startswith(before) and other.endswith(after)
    start, _, end = other.partition(ACCOUNT)
    heads = before.startswith(start) or start.startswith(before)
    return heads and (after.endswith(end) or end.endswith(after))
