"""Provider profiles as data: one YAML file each beside this module, read when it is asked for.

The shape of a profile, with the meaning of every field, is `sidecar.profile.Profile`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import msgspec
import yaml

from sidecar.errors import ConfigError
from sidecar.profile import Profile

GENERIC = "generic"


@cache
def names() -> tuple[str, ...]:
    """List the built-in profiles, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(file.removesuffix(".yaml") for file in files if file.endswith(".yaml")))


@cache
def load(name: str) -> Profile:
    """Read a built-in profile. Raises `ConfigError`, with the nearest match, if there is no such name."""
    if name not in names():
        raise ConfigError(unknown(name, names()))
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.safe_load(text), Profile)


def override(profile: Profile, mapping: Mapping[str, Any]) -> Profile:
    """Return the profile with these fields changed.

    Error rules go before the profile's own, since the first match counts; everything else is replaced, and
    with it goes the note on its source. Raises `msgspec.ValidationError` for what doesn't fit.
    """
    base = msgspec.to_builtins(profile)
    changes = msgspec.to_builtins(dict(mapping), enc_hook=float)
    if "errors" in changes:
        changes["errors"] = [*changes["errors"], *base["errors"]]
    if "answer" in changes:
        changes["answer"] = {**base["answer"], **changes["answer"]}
    sources = {field: source for field, source in base["sources"].items() if field not in changes}
    return msgspec.convert({**base, "sources": sources, **changes}, Profile)


def unknown(name: str, known: tuple[str, ...]) -> str:
    """Say in words that there is no such profile, and which was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    way_out = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
    return f"there is no provider profile of this name; {way_out}"
