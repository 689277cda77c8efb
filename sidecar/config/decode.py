"""The tree of a document → `ConfigFile`, with every misfit reported at its place.

msgspec decides what fits, and it is quick, but it stops at the first misfit and knows no lines. Only when it
refuses, the tree is held against the JSON Schema (explain.py), every misfit is reported and taken out, and
the rest is decoded, so that the checks that follow can report what is wrong beside it.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sidecar.config.document import Node
from sidecar.config.report import Report
from sidecar.config.schema import SHORTHANDS
from sidecar.config.settings import ConfigFile, Duration, FileMode
from sidecar.errors import ConfigError


class Decoded(msgspec.Struct, frozen=True):
    """A file whose shape is right."""

    file: ConfigFile
    tree: Node
    """As decoded: with `defaults` filled into each token, and shorthands written out."""


def decode(root: Node, report: Report, base: Path, env: Mapping[str, str]) -> Decoded:
    """Decode a document; relative paths start from `base`. Raises `ConfigError` when too little is right."""
    hook = _hook(base, env)
    try:
        return _convert(root, hook)
    except msgspec.ValidationError:
        from sidecar.config import explain  # jsonschema is big, and most files are right

        explain.report_misfits(root, report)
    try:
        return _convert(root, hook)
    except msgspec.ValidationError:
        report.check()
        # Its message may quote a secret, so that it goes no further.
        raise ConfigError(
            f"{report.file}: does not fit, in a way that has no words yet; please report it"
        ) from None


def _convert(root: Node, hook: Callable[[type, Any], Any]) -> Decoded:
    tree = _written_out(root)
    # Not strict: text is taken as a number or a boolean where one is wanted, so that `port: ${PORT}` works.
    return Decoded(msgspec.convert(tree.plain(), ConfigFile, strict=False, dec_hook=hook), tree)


def _hook(base: Path, env: Mapping[str, str]) -> Callable[[type, Any], Any]:
    def convert(kind: type, written: Any) -> Any:
        if kind is Duration or kind is FileMode:
            return kind.parse(written)
        if kind is Path and isinstance(written, str) and written:
            return absolute(written, base, env)
        raise ValueError("is no path")

    return convert


def absolute(written: str, base: Path, env: Mapping[str, str]) -> Path:
    """Make a path absolute, as the file's directory and the home directory have it, and normalise it."""
    if written == "~" or written.startswith("~/"):
        written = env.get("HOME", "~") + written[1:]
    return Path(os.path.normpath(base / written))


def _written_out(root: Node) -> Node:
    """Write shorthands out, and fill `defaults` into each token."""
    members = dict(_members(root))
    if "store" in members:
        members["store"] = _mapping(members["store"], SHORTHANDS["StoreSettings"])
    if "defaults" in members:
        members["defaults"] = _token(members["defaults"], {})
    if "tokens" in members:
        defaults = _members(members.get("defaults"))
        tokens = {name: _token(token, defaults) for name, token in _members(members["tokens"]).items()}
        if tokens or isinstance(members["tokens"].value, dict):
            members["tokens"] = msgspec.structs.replace(members["tokens"], value=tokens)
    return msgspec.structs.replace(root, value=members)


def _token(node: Node, defaults: Mapping[str, Node]) -> Node:
    if node.value is not None and not isinstance(node.value, dict):
        return node
    members = {**defaults, **_members(node)}
    for name, group in (("seed", "SeedSource"), ("subject_token", "SubjectToken")):
        if name in members:
            members[name] = _mapping(members[name], SHORTHANDS[group])
    return msgspec.structs.replace(node, value=members)


def _members(node: Node | None) -> dict[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _mapping(node: Node, key: str) -> Node:
    """Write a text out as the mapping that it stands for."""
    return msgspec.structs.replace(node, value={key: node}) if isinstance(node.value, str) else node
