"""What a Kubernetes API server does with objects, as far as tests need it: patches, owners of fields, rules, validity.

Everything here was compared with a real kube-apiserver: see test_api.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
Path = tuple[str, ...]

MAX_DATA = 1 << 20
MAX_ANNOTATIONS = 1 << 18
FIELDS = {
    "Secret": {"apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData"},
    "ConfigMap": {"apiVersion", "kind", "metadata", "immutable", "data", "binaryData"},
}
"""What is not among them is dropped without a word, as by every server that is not asked to be strict."""

UNTRACKED = frozenset({
    "name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation", "managedFields", "selfLink",
})  # fmt: skip
"""Of the metadata: nobody owns these."""

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SUBDOMAIN_WORDS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
DATA_KEY_WORDS = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    "or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
QUALIFIED = re.compile(r"([a-z0-9.-]{1,253}/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
QUALIFIED_WORDS = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


class Refused(Exception):
    """What the server answers in place of an object."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            **({"reason": reason} if reason else {}),
            **({"details": details} if details is not None else {}),
            "code": code,
        }


# Patches


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def strategically_merged(target: Any, patch: Any) -> Any:
    """Apply a strategic merge patch: lists of things that have names are merged by them, others are replaced."""
    if isinstance(patch, dict):
        directive = patch.get("$patch")
        result = dict(target) if isinstance(target, dict) and directive != "replace" else {}
        for key, value in patch.items():
            if key == "$patch":
                continue
            if value is None:
                result.pop(key, None)
            else:
                result[key] = strategically_merged(result.get(key), value)
        return result
    if isinstance(patch, list) and all(isinstance(item, dict) and "name" in item for item in patch):
        by_name = {item["name"]: item for item in target or []}
        for item in patch:
            if item.get("$patch") == "delete":
                by_name.pop(item["name"], None)
            else:
                by_name[item["name"]] = strategically_merged(by_name.get(item["name"]), item)
        return [*by_name.values()]
    return patch


def normalised(content: Object) -> Object:
    """Drop what is empty, as the server's own types do, and write `stringData` into `data`."""
    known = FIELDS.get(content["kind"], content.keys())
    content = {key: deepcopy(value) for key, value in content.items() if key in known}
    texts = content.pop("stringData", None) if content.get("kind") == "Secret" else None
    if texts:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        content["data"] = {**(content.get("data") or {}), **encoded}
    if content.get("kind") in {"Secret", "ConfigMap"} and not content.get("data"):
        content.pop("data", None)
    for key in ("labels", "annotations", "ownerReferences", "finalizers"):
        if not content["metadata"].get(key):
            content["metadata"].pop(key, None)
    return content


# Who owns which field


def leaves(value: Any, *, maps: bool, path: Path = ()) -> Iterator[Path]:
    """Give the paths of all fields below a value; those of the maps themselves too, if asked for."""
    if isinstance(value, dict) and value:
        if maps and _is_map(path):
            yield path
        for key, item in value.items():
            if path == ("f:metadata",) and key in UNTRACKED:
                continue
            if not path and key in {"apiVersion", "kind"}:
                continue
            yield from leaves(item, maps=maps, path=(*path, f"f:{key}"))
    elif isinstance(value, list) and value and path[-1] in {"f:ownerReferences", "f:containers", "f:env"}:
        if maps and path[-1] == "f:ownerReferences":
            yield path
        for item in value:
            name = "uid" if path[-1] == "f:ownerReferences" else "name"
            entry = (*path, f"k:{json.dumps({name: item[name]}, separators=(',', ':'))}")
            yield entry
            yield from leaves(item, maps=maps, path=entry)
    else:
        yield path


def _is_map(path: Path) -> bool:
    return path[-1:] in {("f:data",), ("f:annotations",), ("f:labels",), ("f:rollingUpdate",)}


def written(paths: set[Path]) -> Object:
    """Write paths as `fieldsV1`."""
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
    return _dotted(tree, (), paths)


def _dotted(tree: Object, path: Path, paths: set[Path]) -> Object:
    children = {step: _dotted(node, (*path, step), paths) for step, node in tree.items()}
    return {".": {}, **children} if children and path in paths else children


def read(fields: Object, path: Path = ()) -> set[Path]:
    """Read `fieldsV1`."""
    if not fields:
        return {path} if path else set()
    found: set[Path] = set()
    for step, node in fields.items():
        if step == ".":
            found.add(path)
        else:
            found |= read(node, (*path, step))
    return found


def value_at(content: Any, path: Path) -> Any:
    """Return what is at a path; for a map or a list's entry, whether it is there."""
    for step in path:
        content = _entry_at(content, step)
    return True if path[-1].startswith("k:") or (isinstance(content, dict) and content) else content


def _entry_at(content: Any, step: str) -> Any:
    kind, _, name = step.partition(":")
    if kind == "f":
        return content.get(name) if isinstance(content, dict) else None
    wanted = json.loads(name)
    entries = content if isinstance(content, list) else []
    return next((one for one in entries if wanted.items() <= one.items()), None)


class Entry:
    """What one manager owns by one kind of operation."""

    def __init__(self, written_entry: Object) -> None:
        self.told = {key: value for key, value in written_entry.items() if key != "fieldsV1"}
        self.paths = read(written_entry.get("fieldsV1", {}))

    @property
    def id(self) -> tuple[str, str]:
        """Who, and how."""
        return self.told["manager"], self.told["operation"]

    def write(self) -> Object:
        """Write it as the object has it."""
        return {**self.told, "fieldsV1": written(self.paths)}


def entries_of(content: Object | None) -> list[Entry]:
    """Read all owners of an object's fields."""
    return [Entry(entry) for entry in (content or {}).get("metadata", {}).get("managedFields", [])]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _entry(entries: list[Entry], manager: str, operation: str, version: str) -> Entry:
    for entry in entries:
        if entry.id == (manager, operation):
            return entry
    made = Entry(
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": version,
            "time": _now(),
            "fieldsType": "FieldsV1",
        }
    )
    entries.append(made)
    return made


def _finished(entries: list[Entry], content: Object) -> list[Object]:
    here = set(leaves(content, maps=True))
    for entry in entries:
        # Whoever applies `stringData` owns that and not `data`, although it is never there.
        entry.paths = {path for path in entry.paths if path in here or path[0] == "f:stringData"}
    kept = [entry for entry in entries if entry.paths]
    return [
        entry.write()
        for entry in sorted(
            kept, key=lambda one: (one.told["operation"], one.told["time"], one.told["manager"])
        )
    ]


def updated(old: Object | None, new: Object, manager: str) -> list[Object]:
    """Return the owners of fields after a POST, PUT or PATCH: whoever changes a field owns it, alone."""
    before = set(leaves(old, maps=True)) if old else set()
    changed = {
        path
        for path in set(leaves(new, maps=True))
        if path not in before or value_at(old, path) != value_at(new, path)
    }
    entries = entries_of(old)
    for entry in entries:
        entry.paths -= changed
    if changed:
        entry = _entry(entries, manager, "Update", new["apiVersion"])
        entry.paths |= changed
        entry.told["time"] = _now()
    return _finished(entries, new)


def applied(old: Object | None, config: Object, manager: str, *, force: bool) -> Object:
    """Apply a configuration from the server's side; returns the whole object. Raises `Refused` for a conflict."""
    wanted = set(leaves(config, maps=False))
    live: Object = deepcopy(old) if old else {}
    entries = entries_of(old)
    own = _entry(entries, manager, "Apply", config["apiVersion"])
    conflicts = [
        (entry, path)
        for entry in entries
        if entry is not own
        for path in sorted(entry.paths & wanted)
        if value_at(live, path) != value_at(config, path)
    ]
    if conflicts and not force:
        raise _conflict_of(conflicts)
    for entry, path in conflicts:
        entry.paths.discard(path)
    gone = own.paths - wanted
    result = strategically_merged(live, config)
    for path in sorted(gone):
        if not any(path in entry.paths for entry in entries if entry is not own):
            _remove(result, path)
    own.paths = wanted
    own.told["time"] = _now()
    result["metadata"]["managedFields"] = [entry.write() for entry in entries]
    result = normalised(result)
    result["metadata"]["managedFields"] = _finished(entries_of(result), result)
    return result


def _conflict_of(conflicts: Sequence[tuple[Entry, Path]]) -> Refused:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{entry.told["manager"]}" using {entry.told["apiVersion"]}',
            "field": "." + ".".join(step.partition(":")[2] for step in path),
        }
        for entry, path in conflicts
    ]
    count = f"{len(causes)} conflict" + ("s" if len(causes) > 1 else "")
    told = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    return Refused(409, "Conflict", f"Apply failed with {count}: {told}", {"causes": causes})


def _remove(content: Object, path: Path) -> None:
    node: Any = content
    for step in path[:-1]:
        node = _entry_at(node, step)
        if node is None:
            return
    last = path[-1]
    if isinstance(node, dict) and last.startswith("f:"):
        node.pop(last.removeprefix("f:"), None)
    elif isinstance(node, list) and (found := _entry_at(node, last)) is not None:
        node.remove(found)


# Validity


def check(kind: str, old: Object | None, new: Object) -> None:
    """Raise `Refused` for an object that the server would not take."""
    metadata = new["metadata"]
    name = str(metadata.get("name", ""))
    causes: list[tuple[str, str, str]] = []
    if not SUBDOMAIN.fullmatch(name) or len(name) > 253:
        causes.append(("FieldValueInvalid", f'Invalid value: "{name}": {SUBDOMAIN_WORDS}', "metadata.name"))
    for place in ("labels", "annotations"):
        causes += [
            ("FieldValueInvalid", f'Invalid value: "{key}": {QUALIFIED_WORDS}', f"metadata.{place}")
            for key in metadata.get(place) or {}
            if not QUALIFIED.fullmatch(key if place == "labels" else key.lower())
        ]
    notes = metadata.get("annotations") or {}
    if sum(len(key) + len(value.encode()) for key, value in notes.items()) > MAX_ANNOTATIONS:
        words = f"Too long: must have at most {MAX_ANNOTATIONS} bytes"
        causes.append(("FieldValueTooLong", words, "metadata.annotations"))
    if old is not None and old["metadata"]["uid"] != metadata.get("uid"):
        words = f'Invalid value: "{metadata.get("uid")}": field is immutable'
        causes.append(("FieldValueInvalid", words, "metadata.uid"))
    if kind == "Secret":
        causes += _wrong_in_secret(old, new)
    if causes:
        raise invalid(kind, name, causes)


def _wrong_in_secret(old: Object | None, new: Object) -> Iterator[tuple[str, str, str]]:
    data = new.get("data") or {}
    for key in data:
        if not DATA_KEY.fullmatch(key):
            yield "FieldValueInvalid", f'Invalid value: "{key}": {DATA_KEY_WORDS}', f"data[{key}]"
    if sum(len(base64.b64decode(value)) for value in data.values()) > MAX_DATA:
        yield "FieldValueTooLong", f"Too long: must have at most {MAX_DATA} bytes", "data"
    if old is None:
        return
    if old.get("type") != new.get("type"):
        yield "FieldValueInvalid", f'Invalid value: "{new.get("type")}": field is immutable', "type"
    if old.get("immutable"):
        if not new.get("immutable"):
            yield "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set", "immutable"
        if (old.get("data") or {}) != data:
            yield "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set", "data"


def invalid(kind: str, name: str, causes: Sequence[tuple[str, str, str]]) -> Refused:
    """Say what is wrong with an object."""
    told = [f"{field}: {message}" for _, message, field in causes]
    listed = [{"reason": reason, "message": message, "field": field} for reason, message, field in causes]
    words = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    details = {"name": name, "kind": kind, "causes": listed}
    return Refused(422, "Invalid", f'{kind} "{name}" is invalid: {words}', details)


def unreadable(content: Object) -> str:
    """Return why an object is not of its kind, if it is not: what is in a Secret is base64, what is noted is text."""
    for place in ("labels", "annotations"):
        if any(not isinstance(value, str) for value in (content["metadata"].get(place) or {}).values()):
            return 'ReadString: expects " or n, but found another'
    if content.get("kind") == "Secret":
        for value in (content.get("data") or {}).values():
            if not isinstance(value, str):
                return "base64 codec: expects a string"
            try:
                base64.b64decode(value, validate=True)
            except binascii.Error:
                return "illegal base64 data at input byte 0"
    return ""


# Rules


def allows(rule: Object, *, verb: str, group: str, resource: str, name: str) -> bool:
    """Tell whether one rule of a Role allows it."""
    names = rule.get("resourceNames") or []
    return (
        _has(rule.get("verbs", []), verb)
        and _has(rule.get("apiGroups", []), group)
        and _has(rule.get("resources", []), resource)
        and (not names or name in names)
    )


def _has(listed: Sequence[str], wanted: str) -> bool:
    return "*" in listed or wanted in listed


def selected(content: Object, fields: str, labels: str) -> bool:
    """Tell whether an object is one of those that selectors choose."""
    metadata = content["metadata"]
    for wanted in filter(None, fields.split(",")):
        key, _, value = wanted.replace("==", "=").partition("=")
        if metadata.get(key.removeprefix("metadata.")) != value:
            return False
    own: Mapping[str, str] = metadata.get("labels") or {}
    for wanted in filter(None, labels.split(",")):
        key, equals, value = wanted.replace("==", "=").partition("=")
        if (key.startswith("!") and key[1:] in own) or (not key.startswith("!") and key not in own):
            return False
        if equals and own.get(key) != value:
            return False
    return True
