"""YAML text → a tree of plain values, each of which knows its place in the file.

Only what YAML and JSON share is taken: mappings, lists, text, numbers, booleans and null. Keys are always
text. `${NAME}`, `${NAME:-default}` and `$$` are expanded here, in scalars and after parsing, so that no value
of a variable can change the structure. Nor does it change the type: an expanded scalar is text, whatever it
looks like, and text is taken as a number or a boolean where the key wants one (see decode.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml
from yaml.constructor import SafeConstructor

from sidecar.config.report import Mark, Report, label

MAX_BYTES = 16 * 1024 * 1024
MAX_NODES = 250_000
"""Aliases can multiply a small file without end."""
MAX_DEPTH = 32

# libyaml's loader is ten times as fast, and a hostile file overflows its stack: the process dies of SIGSEGV.
_Loader = yaml.SafeLoader
_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|(?P<bad>\{))"
)

Scalar = str | int | float | bool | None


class Node(msgspec.Struct):
    """One value of the file. Mappings and lists hold further nodes."""

    value: dict[str, Node] | list[Node] | Scalar
    mark: Mark
    """Where the value stands."""
    key_mark: Mark
    """Where its key stands, or its dash."""
    written: str | None = None
    """A scalar as it was written; None for one that came through a variable, since it may be a secret."""

    def plain(self) -> Any:
        """Return the value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def get(self, step: str | int) -> Node | None:
        """Return one child, or None where there is none."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def remove(self, step: str | int) -> None:
        """Take one child out."""
        if isinstance(self.value, dict) and isinstance(step, str):
            self.value.pop(step, None)
        elif isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            del self.value[step]


def parse(data: bytes, report: Report, env: Mapping[str, str]) -> Node | None:
    """Read a document. Problems are reported, and what they concern left out; None if nothing can be read."""
    text = _decode(data, report)
    if text is None:
        return None
    composed = _compose(text, report)
    if composed is None:
        return None
    root = _Builder(report, env).build(composed, Mark(1, 1, ""), Mark(1, 1, ""), 0)
    if root is not None and not isinstance(root.value, dict):
        report.error(
            root.mark, f"the file holds {kind(root.value)} where a mapping with the key `tokens` is needed"
        )
        return None
    return root


def kind(value: object) -> str:
    """Name a value's type in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return {"dict": "a mapping", "list": "a list"}.get(type(value).__name__, "text")


def _decode(data: bytes, report: Report) -> str | None:
    if len(data) > MAX_BYTES:
        report.error(
            Mark(1, 1, ""), f"the file is larger than {MAX_BYTES // 1024**2} MiB; is it a configuration?"
        )
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        column = fault.start - (data.rfind(b"\n", 0, fault.start) + 1) + 1
        report.error(Mark(line, column, ""), "the file is not UTF-8 text from here on; save it as UTF-8")
        return None


def _compose(text: str, report: Report) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        composed = loader.get_single_node()
    except yaml.reader.ReaderError as fault:
        before = text[: fault.position]
        mark = Mark(before.count("\n") + 1, fault.position - (before.rfind("\n") + 1) + 1, "")
        report.error(
            mark, f"the character U+{ord(text[fault.position]):04X} has no place in a text file; remove it"
        )
    except yaml.MarkedYAMLError as fault:
        at = fault.problem_mark or fault.context_mark
        mark = Mark(at.line + 1, at.column + 1, "") if at else Mark(1, 1, "")
        report.error(mark, _syntax(fault))
    except RecursionError:
        report.error(Mark(1, 1, ""), "the file is nested too deeply")
    else:
        if composed is None:
            report.error(Mark(1, 1, ""), "the file is empty; `token-sidecar init` writes one to start from")
        return composed
    return None


_SYNTAX = (
    ("another document", "a second YAML document (`---`) begins here; one file holds one configuration"),
    ("'\\t'", "a tab stands where YAML wants spaces; indent with spaces"),
    ("undefined alias", "this alias (`*`) names nothing; if it is text, put it in quotes"),
    ("tag", "this is no valid YAML tag (`!`); if it is text, put it in quotes"),
    (
        "mapping values are not allowed",
        "a `key: value` can't stand here; check the indentation, or quote the text",
    ),
    (
        "could not find expected ':'",
        "a key without its `:` ends here; check the indentation and the line before",
    ),
    (
        "expected ',' or '}'",
        'this `{…}` is broken off here; a text in it that has a brace has to be quoted, as "${NAME}"',
    ),
    ("cannot start any token", "no value can begin with this character; put the text in quotes"),
)


def _syntax(fault: yaml.MarkedYAMLError) -> str:
    problem = fault.problem or fault.context or "it can't be read"
    for sign, words in _SYNTAX:
        if sign in problem or sign in (fault.context or ""):
            return words
    # The parser quotes what it found, which may be a piece of a secret.
    masked = re.sub(r"'(?!<)[^']{2,}'|\"[^\"]{2,}\"", "…", problem)
    return f"this is not YAML: {' '.join(masked.split())}"


class _Builder:
    """Turns the parser's nodes into ours."""

    def __init__(self, report: Report, env: Mapping[str, str]) -> None:
        self.report = report
        self.env = env
        self.count = 0

    def build(self, node: yaml.Node, mark: Mark, key_mark: Mark, depth: int) -> Node | None:
        """Return our node; None for one that is wrong and was reported."""
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            self._too_much(mark, depth)
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, mark, key_mark)
        if node.tag not in {_TAG + "map", _TAG + "seq"}:
            self._unknown_tag(mark)
            return None
        if isinstance(node, yaml.MappingNode):
            return Node(self._members(node, mark, depth), mark, key_mark)
        return Node(list(self._items(node, mark, depth)), mark, key_mark)

    def _items(self, node: yaml.Node, parent: Mark, depth: int) -> Iterator[Node]:
        for index, item in enumerate(node.value):
            mark = _mark(item, f"{parent.label}[{index}]")
            child = self.build(item, mark, mark, depth + 1)
            if child is not None:
                yield child

    def _members(self, node: yaml.MappingNode, parent: Mark, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        first: dict[str, Mark] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.report.error(
                    _mark(key, parent.label), "a key must be text; if it begins with a brace, quote it"
                )
                continue
            if key.tag == _TAG + "merge":
                merged |= self._merge(value, parent, depth)
                continue
            key_mark = _mark(key, label(parent.label, key.value))
            if key.value in first:
                line = first[key.value].line
                self.report.error(
                    key_mark, f"is there twice, in line {line} and in line {key_mark.line}; remove one"
                )
                continue
            first[key.value] = key_mark
            child = self.build(value, _mark(value, key_mark.label), key_mark, depth + 1)
            if child is not None:
                members[key.value] = child
        return merged | members

    def _merge(self, node: yaml.Node, parent: Mark, depth: int) -> dict[str, Node]:
        """Read `<<: *other`: members to take over where the mapping has none of its own."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Node] = {}
        for source in sources:
            if isinstance(source, yaml.MappingNode) and depth < MAX_DEPTH:
                merged = self._members(source, parent, depth + 1) | merged
            else:
                self.report.error(_mark(source, parent.label), "`<<` takes over mappings only")
        return merged

    def _scalar(self, node: yaml.ScalarNode, mark: Mark, key_mark: Mark) -> Node | None:
        if not node.tag.startswith(_TAG) or node.tag in {_TAG + "binary", _TAG + "set"}:
            self._unknown_tag(mark)
            return None
        if "$" in node.value:
            expanded = self._expand(node.value, mark)
            return None if expanded is None else self._text(expanded, mark, key_mark, None)
        value = _resolve(node)
        if isinstance(value, str):
            return self._text(value, mark, key_mark, node.value)
        return Node(value, mark, key_mark, node.value)

    def _text(self, value: str, mark: Mark, key_mark: Mark, written: str | None) -> Node | None:
        if "\0" in value or any(0xD800 <= ord(char) <= 0xDFFF for char in value):  # noqa: PLR2004 - surrogates
            self.report.error(
                mark, "holds a character that no text can have (a zero byte, or half of a pair)"
            )
            return None
        return Node(value, mark, key_mark, written)

    def _expand(self, text: str, mark: Mark) -> str | None:
        problems: list[str] = []

        def replace(found: re.Match[str]) -> str:
            if found["escaped"]:
                return "$"
            if found["bad"]:
                problems.append(
                    "`${` begins no variable; write ${NAME} or ${NAME:-default}, or $$ for a dollar sign"
                )
                return ""
            value = self.env.get(found["name"]) or found["default"]
            if value is None and found["name"] not in self.env:
                name = found["name"]
                problems.append(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
            return value or ""

        expanded = _VARIABLE.sub(replace, text)
        for problem in dict.fromkeys(problems):
            self.report.error(mark, problem)
        return None if problems else expanded

    def _too_much(self, mark: Mark, depth: int) -> None:
        if depth <= MAX_DEPTH and self.count > MAX_NODES + 1:
            return  # it was said once
        self.count = max(self.count, MAX_NODES + 1)
        self.report.error(mark, f"is nested deeper than {MAX_DEPTH} levels or repeats aliases without end")

    def _unknown_tag(self, mark: Mark) -> None:
        self.report.error(mark, "has a YAML tag (`!…`) that means nothing here; remove it, or quote the text")


def _mark(node: yaml.Node, name: str) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1, name)


def _resolve(node: yaml.ScalarNode) -> Scalar:
    """Read a scalar as YAML 1.1 does, but for dates and base-60 numbers (`10:30`), which stay text."""
    text = node.value
    try:
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return SafeConstructor.bool_values[text.lower()]
            case "int" if ":" not in text:
                return int(SafeConstructor().construct_yaml_int(node))
            case "float" if ":" not in text:
                number = float(SafeConstructor().construct_yaml_float(node))
                return number if math.isfinite(number) else str(text)
    except (ValueError, KeyError):  # tagged by hand (`!!int x`), or a number of thousands of digits
        pass
    return str(text)
