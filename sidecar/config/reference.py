"""The reference page of the configuration, made from the groups in settings.py.

`python -m sidecar.config.reference docs/reference` writes it and the JSON Schema.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sidecar.config import schema

_INTRODUCTION = """\
# Configuration

<!-- Written by sidecar.config.reference from the classes in sidecar/config/settings.py, by `make reference`. -->

The configuration is one YAML file: `--config`, else `$TOKEN_SIDECAR_CONFIG`, else
`/etc/token-sidecar/config.yaml`. `token-sidecar check` names every mistake in it, each with its line and the
way out. Editors that know JSON Schema complete it with [config.schema.json](config.schema.json).

- Unknown keys, keys given twice and contradictions are errors.
- **Paths** may be relative: to the directory of the configuration file. `~/` is `$HOME`.
- **Durations** are written `90s`, `10m`, `1h30m`, `7d`, or as a plain number of seconds.
- **File modes** are quoted octal strings: `"0640"`. As a number, `0640` would be 416 to YAML, so numbers are
  refused.
- **Variables**: `${NAME}` and `${NAME:-default}` (which also stands in for an empty value) are expanded in
  values, never in keys; `$$` is a dollar sign. A variable that is not set is an error. What was expanded is
  text, and text is taken as a number or as `true` or `false` where the key wants one: `port: ${PORT}` works,
  and `id: ${CLIENT_ID}` stays text even if it is all digits.
- `defaults` holds any key of a token. A token's own key replaces the default whole: a `client` of its own
  takes nothing over from the default `client`.
- YAML anchors, aliases and `<<` work.
"""


_SECTIONS = {
    "ConfigFile": ("The file", "file"),
    "TokenSettings": ("A token: `tokens.NAME`, `defaults`", "token"),
    "ForEach": ("The accounts of a set: `for_each`", "accounts"),
    "SqlAccounts": ("Accounts by SQL: `sql`", "accounts by SQL"),
    "Client": ("The client: `client`", "client"),
    "SubjectToken": ("A token to exchange: `subject_token`", "path or subject token"),
    "SeedSource": ("A seed: `seed`", "path or seed"),
    "OutputTarget": ("An output: `outputs[]`", "output"),
    "SecretKey": ("A key of a Secret: `kubernetes_secret`", "key of a Secret"),
    "AwsSecret": ("A secret of AWS: `aws_secret`", "secret of AWS"),
    "SqlOutput": ("A column of a table: `outputs[].sql`", "column of a table"),
    "SqlCell": ("A column to read: `seed.sql`", "column to read"),
    "JsonField": ("A JSON member: `fields.NAME`", "member"),
    "HookSettings": ("A hook: `after_refresh[]`", "hook"),
    "HttpCall": ("An HTTP request: `http`", "request"),
    "Command": ("A program: `exec`", "program"),
    "ProcessSignal": ("A signal: `signal`", "signal"),
    "RolloutRestart": ("A restart: `rollout_restart`", "restart"),
    "ProviderSettings": ("A provider: `providers.NAME`, `provider`", "provider"),
    "AnswerShape": ("The shape of an answer: `answer`", "answer"),
    "ErrorRule": ("An error rule: `errors[]`", "error rule"),
    "StoreSettings": ("`store`", "URL or store"),
    "ServerSettings": ("`server`", "server"),
    "ControlSettings": ("`control`", "control"),
    "LogSettings": ("`log`", "log"),
    "AuditSettings": ("`audit`", "audit"),
    "TracingSettings": ("`tracing`", "tracing"),
    "ConsoleSettings": ("`console`", "console"),
    "ConsoleProxy": ("`console.proxy`", "proxy"),
    "Operators": ("`console.operators`", "operators"),
}
"""Group → its heading, and how a table refers to it; in the order of the page."""


def generate() -> str:
    """Write the page, as Markdown: docs/reference/configuration.md."""
    groups = schema.groups()
    return "\n".join([_INTRODUCTION, *(_section(name, groups[name]) for name in _SECTIONS)])


def write(directory: Path) -> None:
    """Write the page and the schema into a directory."""
    (directory / "configuration.md").write_text(generate(), encoding="utf-8")
    (directory / "config.schema.json").write_text(schema.render(), encoding="utf-8")


def _section(name: str, group: type[msgspec.Struct]) -> str:
    words = " ".join(inspect.cleandoc(group.__doc__ or "").split())
    head = ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {_SECTIONS[name][0]}", "", words, "", *head, *_rows(name, group), ""])


def _rows(name: str, group: type[msgspec.Struct]) -> Iterator[str]:
    definition = schema.checking()["$defs"][name]
    properties = definition.get("properties") or definition["anyOf"][-1]["properties"]
    for field in msgspec.structs.fields(group):
        member = properties[field.encode_name]
        default = schema.default_of(field)
        shown = "required" if field.required else "" if default is None else f"`{json.dumps(default)}`"
        meaning = " ".join(member.get("description", "").split())
        yield f"| `{field.name}` | {_type(member)} | {shown} | {meaning} |"


def _type(part: dict[str, Any]) -> str:
    """Name in words what may be written."""
    if "$ref" in part:
        return _referred(part["$ref"].rpartition("/")[2])
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_type(one) for one in part["anyOf"] if one.get("type") != "null"))
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"] if value is not None)
    if "format" in part:
        return str(part["format"]).removeprefix("sidecar-").replace("-", " ")
    if part.get("type") == "array":
        return f"list: {_type(part['items'])}"
    if part.get("type") == "object":
        return f"mapping: {_type(part['additionalProperties'])}"
    return {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}[part["type"]]


def _referred(name: str) -> str:
    definition = schema.checking()["$defs"][name]
    if "enum" in definition:
        return _type(definition)
    title, link = _SECTIONS[name]
    anchor = "".join(char for char in title.lower() if char.isalnum() or char in " -_").replace(" ", "-")
    return f"[{link}](#{anchor})"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
