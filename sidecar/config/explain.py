"""Says in words where and how a document does not fit the schema.

Imports jsonschema, so that only wrong files get here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jsonschema
import msgspec
from jsonschema.protocols import Validator

from sidecar.config import schema, settings
from sidecar.config.document import Node, kind
from sidecar.config.report import Mark, Report, label, looks_secret

Steps = tuple[str | int, ...]
Failure = Any
"""`jsonschema.ValidationError`, whose attributes have no types worth having."""


class Misfit(msgspec.Struct, frozen=True):
    """One thing that does not fit."""

    steps: Steps
    """The way to what has to go, so that the rest fits."""
    text: str
    at_key: bool = False
    """Whether the key is to blame, not its value."""
    lacks: str | None = None
    """The key that is missing."""


def report_misfits(root: Node, report: Report) -> None:
    """Report all that does not fit, and take it out of the tree until the rest fits."""
    validator = _validator()
    first = True
    while misfits := _misfits(validator, root):
        for misfit in misfits if first else ():
            _say(misfit, root, report)
        for steps in sorted({misfit.steps for misfit in misfits}, key=_last_first):
            if not steps:
                return
            _node(root, steps[:-1]).remove(steps[-1])
        first = False


def _last_first(steps: Steps) -> list[tuple[int, str]]:
    """Order removals so that none of them shifts the index of another."""
    return [(-step, "") if isinstance(step, int) else (0, step) for step in steps]


def _say(misfit: Misfit, root: Node, report: Report) -> None:
    node = _node(root, misfit.steps)
    if misfit.lacks is None:
        report.error(node.key_mark if misfit.at_key else node.mark, misfit.text)
        return
    name = label(node.mark.label, misfit.lacks)
    spoilt = report.spoilt(node.mark.label) if misfit.steps else report.spoilt(name)
    if not spoilt:
        report.error(Mark(node.key_mark.line, node.key_mark.column, name), misfit.text)


def _node(root: Node, steps: Sequence[str | int]) -> Node:
    node = root
    for step in steps:
        node = node.get(step) or node
    return node


def _validator() -> Validator:
    """Make a validator that, as msgspec does, takes text for a number or boolean where one is wanted."""
    base = jsonschema.Draft202012Validator
    keywords = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    checks = {key: _reading_text(base.VALIDATORS[key]) for key in keywords}
    lenient = jsonschema.validators.extend(base, checks)  # type: ignore[no-untyped-call]
    formats = jsonschema.FormatChecker(formats=())
    for name, parsed in schema.FORMATS.items():
        formats.checks(name, raises=ValueError)(lambda value, parsed=parsed: parsed.parse(value) is not None)
    validator: Validator = lenient(schema.checking(), format_checker=formats)
    return validator


def _reading_text(check: Callable[..., Iterator[Failure]]) -> Callable[..., Any]:
    def lenient(
        validator: Validator, wanted: object, value: object, part: dict[str, Any]
    ) -> Iterator[Failure]:
        yield from check(validator, wanted, _read(value, part.get("type")), part)

    return lenient


def _read(value: object, wanted: object) -> object:
    """Read text as the number or boolean that is wanted, if it is one."""
    if wanted == "boolean" and (
        value in {0, 1} if isinstance(value, int) else str(value).lower() in _BOOLEANS
    ):
        return True
    if not isinstance(value, str) or wanted not in ("integer", "number") or not re.fullmatch(_NUMBER, value):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


_BOOLEANS = {"true", "false", "1", "0"}
_NUMBER = r"-?[0-9]{1,9}(\.[0-9]{1,9})?"


def _misfits(validator: Validator, root: Node) -> list[Misfit]:
    found: list[Misfit] = []
    for error in validator.iter_errors(root.plain()):
        found.extend(_translate(error, root))
    # What is missing comes last: a key that was misspelt beside it has then been said.
    return sorted(found, key=lambda misfit: misfit.lacks is not None)


def _translate(error: Failure, root: Node) -> Iterator[Misfit]:
    steps: Steps = tuple(error.absolute_path)
    if "propertyNames" in list(error.absolute_schema_path)[-2:]:
        text = (
            "no name: use up to 63 letters, digits, dots, dashes, underscores; a letter or digit at each end"
        )
        yield Misfit((*steps, error.instance), f"is {text}", at_key=True)
        return
    match error.validator:
        case "anyOf":
            meant = _meant(error)
            for part in meant:
                yield from _translate(part, root)
            if not meant:
                yield Misfit(steps, _wrong_kind(error, _node(root, steps), steps))
        case "additionalProperties":
            yield from _unknown_keys(error, steps)
        case "required":
            for key in (key for key in error.validator_value if key not in error.instance):
                yield Misfit(steps, "is missing", lacks=key)
        case _:
            yield Misfit(steps, _wrong_value(error, _node(root, steps), steps))


def _meant(error: Failure) -> list[Failure]:
    """Of several alternatives, return what is wrong with the one whose type was written."""
    alternatives: dict[Any, list[Failure]] = {}
    for part in error.context or ():
        alternatives.setdefault(part.schema_path[0], []).append(part)
    for parts in alternatives.values():
        if not any(part.validator == "type" and not part.path for part in parts):
            return parts
    return []


def _unknown_keys(error: Failure, steps: Steps) -> Iterator[Misfit]:
    known = list(error.schema["properties"])
    for key in error.instance:
        if key in known:
            continue
        close = difflib.get_close_matches(key, known, n=1)
        way_out = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(sorted(known))}"
        yield Misfit((*steps, key), f"unknown key; {way_out}", at_key=True)


def _wrong_value(error: Failure, node: Node, steps: Steps) -> str:
    wanted = error.validator_value
    match error.schema.get("format"), error.validator:
        case "sidecar-file-mode", _:
            return _wrong_mode(node, steps)
        case "sidecar-duration", _:
            return f"{_is(node, steps)}, which is no duration up to a hundred years; write 90s, 10m or 1h30m"
        case _, "type":
            return _wrong_kind(error, node, steps)
        case _, "enum":
            return f"{_is(node, steps)}; {_choice(node.value, wanted)}"
        case _, "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            bound = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above"}
            return f"{_is(node, steps)}; it must be {bound.get(str(error.validator), 'below')} {wanted}"
        case _, "minLength" | "minProperties" | "minItems":
            return "is empty; give it a value" + ("" if error.validator == "minLength" else ", at least one")
        case _, "pattern":
            return f"is no name; use {_NAMES.get(wanted, 'up to 63 letters, digits, dots, dashes and underscores')}"
        case _:
            return "does not fit here"


_NAMES = {
    settings.NAMESPACE_PATTERN: "up to 63 lower case letters, digits and dashes, as Kubernetes does for namespaces",
    settings.OBJECT_PATTERN: "up to 253 lower case letters, digits, dashes and dots, as Kubernetes does",
    settings.KEY_PATTERN: "up to 253 letters, digits, dashes, dots and underscores, as Secrets do for their keys",
}
"""Pattern → what fits it, in words."""


def _wrong_mode(node: Node, steps: Steps) -> str:
    octal = (node.written or "").removeprefix("0o").lstrip("0")
    right = f"0{octal}" if len(octal) == 3 and set(octal) <= set("01234567") else "0640"  # noqa: PLR2004
    return f'{_is(node, steps)}; write it as a quoted octal string up to "0777": {_key(steps)}: "{right}"'


def _wrong_kind(error: Failure, node: Node, steps: Steps) -> str:
    wanted = sorted(_kinds(error.schema))
    if node.value is None:
        return f"has no value; give it {' or '.join(wanted)}, or remove the key"
    if "text" in wanted and isinstance(node.value, bool | int | float):
        quoted = (
            "" if _secret(node, steps) else f": {_key(steps)}: {json.dumps(node.written, ensure_ascii=False)}"
        )
        return f"{_is(node, steps)} where text is needed; put it in quotes{quoted}"
    return f"is {kind(node.value)} where {' or '.join(wanted)} is needed"


def _kinds(part: dict[str, Any]) -> set[str]:
    """Name in words what a schema takes."""
    if "$ref" in part:
        return _kinds(schema.checking()["$defs"][part["$ref"].rpartition("/")[2]])
    if "anyOf" in part:
        return set().union(*(_kinds(alternative) for alternative in part["anyOf"]))
    if "enum" in part:
        return {f"one of {', '.join(str(value) for value in part['enum'] if value is not None)}"}
    if part.get("format") in _FORMATS:
        return {_FORMATS[part["format"]]}
    return {_KINDS[part["type"]]} if part.get("type") in _KINDS else set()


_FORMATS = {
    "sidecar-duration": "a duration such as 10m",
    "sidecar-file-mode": 'a quoted octal string such as "0640"',
}
_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def _is(node: Node, steps: Steps) -> str:
    """Say what was written, unless it may be a secret."""
    what = kind(node.value)
    if node.written is None or _secret(node, steps) or isinstance(node.value, dict | list):
        return f"is {what}"
    if isinstance(node.value, str):
        return f"is {json.dumps(node.written[:40], ensure_ascii=not node.written.isprintable())}"
    return f"is the {what.removeprefix('a ')} {node.written[:40]}"


def _choice(value: object, choices: list[Any]) -> str:
    words = [str(choice) for choice in choices if choice is not None]
    close = difflib.get_close_matches(str(value), words, n=1)
    return f"did you mean {close[0]}?" if close else f"it must be one of {', '.join(words)}"


def _key(steps: Steps) -> str:
    return next((step for step in reversed(steps) if isinstance(step, str)), "")


def _secret(node: Node, steps: Steps) -> bool:
    return (
        _key(steps) in {"secret", "url", "seed"}
        or "extra_params" in steps
        or looks_secret(node.written or "")
    )
