"""The JSON Schema of the configuration file, made from the groups in settings.py.

`checking()` is what a file must fulfil once its variables are expanded; `generate()` is the same for editors,
where a `${NAME}` may stand in place of any scalar.
"""

from __future__ import annotations

import ast
import inspect
import json
import types
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from sidecar import profile
from sidecar.config import settings
from sidecar.config.settings import ConfigFile, Duration, FileMode, Group

Schema = dict[str, Any]

TITLE = "The configuration of token-sidecar"
SHORTHANDS = {"SeedSource": "file", "StoreSettings": "url", "SubjectToken": "file"}
"""Groups that can be written as a plain string, which stands for this one key."""

FORMATS = {"sidecar-duration": Duration, "sidecar-file-mode": FileMode}
"""What is decoded by its own `parse`, under the name of its format in the schema."""

_VARIABLE = r"\$\{"


@cache
def checking() -> Schema:
    """Return the schema that values must fulfil once variables are expanded. Shared: do not change it."""
    schema = msgspec.json.schema(ConfigFile, schema_hook=_custom)
    for name, definition in schema["$defs"].items():
        if "properties" in definition:
            _describe(name, definition)
    for name in SHORTHANDS:
        group = schema["$defs"][name]
        text = {"type": "string", "minLength": 1, "description": group["description"]}
        schema["$defs"][name] = {"anyOf": [text, group]}
    return schema


def generate() -> Schema:
    """Return the schema of the file as it is written, for editors."""
    schema = _with_variables(checking())
    for name, choices in _choices().items():
        group = schema["$defs"][name]
        one = {"oneOf": [{"required": [key]} for key in choices]}
        schema["$defs"][name] = (
            {"anyOf": [group["anyOf"][0], {**group["anyOf"][1], **one}]} if "anyOf" in group else group | one
        )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": TITLE, **schema}


def _choices() -> dict[str, tuple[str, ...]]:
    """Name the groups that need exactly one of some keys; contradictions.py says so in words."""
    kinds = ("PLACES", "WORKLOADS", "TARGETS", "LOCATIONS")
    return {
        name: choices
        for name, group in groups().items()
        if (choices := next((getattr(group, kind) for kind in kinds if hasattr(group, kind)), None))
    }


def render() -> str:
    """Return the schema as the text of docs/reference/config.schema.json."""
    return json.dumps(generate(), indent=2, ensure_ascii=False) + "\n"


@cache
def docstrings(module: types.ModuleType) -> dict[tuple[str, str], str]:
    """Read the docstrings under the attributes of a module's classes: (class, attribute) → text."""
    found = {}
    for group in ast.parse(inspect.getsource(module)).body:
        if not isinstance(group, ast.ClassDef):
            continue
        for field, text in zip(group.body, group.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[group.name, name] = inspect.cleandoc(words)
                case _:
                    pass
    return found


def groups() -> dict[str, type[msgspec.Struct]]:
    """Return every group by its name, in the order of settings.py."""
    own = [value for value in vars(settings).values() if isinstance(value, type) and issubclass(value, Group)]
    known: dict[str, type[msgspec.Struct]] = {group.__name__: group for group in own if group is not Group}
    return {**known, "AnswerShape": profile.AnswerShape, "ErrorRule": profile.ErrorRule}


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """Return a field's default as it would be written; None if it has none, or if that is a whole group."""
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        value = None if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, FileMode):
        return f"{value:04o}"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        value = list(value)
    return None if isinstance(value, msgspec.Struct) or value in ([], {}) else value


def _custom(kind: type) -> Schema:
    if kind is Duration:
        return {
            "type": ["string", "number"],
            "format": "sidecar-duration",
            "pattern": Duration.PATTERN,
            "minimum": 0,
            "maximum": Duration.MAXIMUM,
        }
    if kind is FileMode:
        return {"type": "string", "format": "sidecar-file-mode", "pattern": FileMode.PATTERN}
    if kind is Path:
        return {"type": "string", "format": "sidecar-path", "minLength": 1}
    raise NotImplementedError(kind)


def _describe(name: str, definition: Schema) -> None:
    """Put the docstrings and defaults of a group into its schema."""
    texts = docstrings(settings) | docstrings(profile)
    group = groups()[name]
    for field in msgspec.structs.fields(group):
        member = definition["properties"][field.encode_name]
        homes = [*(home.__name__ for home in group.__mro__), "Profile"]
        text = next((texts[home, field.name] for home in homes if (home, field.name) in texts), None)
        if text:
            member["description"] = text
        member.pop("default", None)
        default = default_of(field)
        if default is not None:
            member["default"] = default


def _with_variables(schema: Any) -> Any:
    """Let every scalar that is not free text also be one that holds a variable."""
    if isinstance(schema, list):
        return [_with_variables(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "enum" in schema:
        rest = {key: value for key, value in schema.items() if key in {"title", "description", "default"}}
        choice = {key: value for key, value in schema.items() if key not in rest}
        return {**rest, "anyOf": [choice, {"type": "string", "pattern": _VARIABLE}]}
    # The names of tokens and profiles are keys, where nothing is expanded.
    loose = {
        key: value if key == "propertyNames" else _with_variables(value) for key, value in schema.items()
    }
    if schema.get("type") in ("integer", "number", "boolean"):
        loose["type"] = [schema["type"], "string"]
        loose["pattern"] = _VARIABLE
    elif "pattern" in schema and isinstance(schema["pattern"], str):
        loose["pattern"] = f"{_VARIABLE}|{schema['pattern']}"
    return loose
