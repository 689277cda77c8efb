"""What of the chart is written by a program: a part of its schema, the table of its README, and the dashboard.

`make chart` writes both anew; tests compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sidecar.config import schema
from tests.helm import dashboard

CHART = Path(__file__).parents[2] / "helm" / "token-sidecar"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
DASHBOARD = CHART / "files" / "dashboard.json"
PANELS = CHART.parents[1] / "docs" / "reference" / "dashboard.md"
INJECTOR = CHART.with_name("token-sidecar-injector")
BEGIN, END = "<!-- values: written by `make chart` -->", "<!-- end of values -->"


class Value(NamedTuple):
    """One value of values.yaml that has a text of its own."""

    path: tuple[str, ...]
    default: Any
    text: str


def values(chart: Path = CHART) -> list[Value]:
    """Read values.yaml: every leaf, and every mapping that is documented as a whole."""
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return list(_values(root, (), text.splitlines()))


def _values(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        path = (*above, key.value)
        words = _comment(lines, key.start_mark.line)
        if words or not isinstance(value, yaml.MappingNode):
            default: Any = yaml.SafeLoader("").construct_document(value)
            yield Value(path, default, words)
        else:
            yield from _values(value, path, lines)


def _comment(lines: list[str], line: int) -> str:
    """Return the comment above a line, from its `# --` on; none without that mark."""
    words: list[str] = []
    for above in reversed(lines[:line]):
        words.insert(0, above.strip().removeprefix("#").strip())
        if above.strip().startswith("# --"):
            return " ".join(words).removeprefix("-- ")
        if not above.strip().startswith("#"):
            return ""
    return ""


def with_config(chart: dict[str, Any]) -> dict[str, Any]:
    """Put the schema of the configuration into the chart's, whose own definitions begin with a small letter."""
    definitions = _for_helm(schema.generate()["$defs"])
    # The default is empty; a template says what is missing in words of its own.
    del definitions["ConfigFile"]["required"]
    own = {name: definition for name, definition in chart["definitions"].items() if name[0].islower()}
    return {**chart, "definitions": {**own, **definitions}}


_WORDS = {"title", "description", "default", "format"}
"""What judges nothing; under `properties` they are names of keys."""


def _for_helm(part: Any) -> Any:
    """Say it in the draft that every Helm knows, and without null, which Helm takes for the wish to leave a key out."""
    if isinstance(part, list):
        return [_for_helm(one) for one in part]
    if not isinstance(part, dict):
        return part.replace("#/$defs/", "#/definitions/") if isinstance(part, str) else part
    choices = [one for one in part.get("anyOf", []) if one != {"type": "null"}]
    if len(choices) == 1:
        rest = {key: value for key, value in part.items() if key != "anyOf"}
        return _for_helm({**choices[0], **rest})
    return {
        key: _for_helm(value) for key, value in part.items() if key not in _WORDS or isinstance(value, dict)
    }


def schema_text() -> str:
    """Return values.schema.json as it should be: its own part as it stands, the configuration's anew."""
    chart = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return json.dumps(with_config(chart), indent=2, ensure_ascii=False) + "\n"


def readme_text(chart: Path = CHART) -> str:
    """Return README.md as it should be: its own words as they stand, the table anew."""
    before, _, rest = (chart / "README.md").read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(chart)}\n{END}{after}"


def table(chart: Path = CHART) -> str:
    """Write the table of values."""
    head = ["| Value | Default | Meaning |", "|---|---|---|"]
    rows = [
        f"| `{'.'.join(value.path)}` | `{json.dumps(value.default, ensure_ascii=False)}` | {value.text} |"
        for value in values(chart)
    ]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    DASHBOARD.write_text(dashboard.text(), encoding="utf-8")
    PANELS.write_text(dashboard.reference(), encoding="utf-8")
    for documented in (CHART, INJECTOR):
        (documented / "README.md").write_text(readme_text(documented), encoding="utf-8")
