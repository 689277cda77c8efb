"""What an API server does with admission policies, as far as this project's own need it.

Their CEL is compiled, type-checked and run by Google's CEL library, with the libraries and types that Kubernetes 1.36
gives it. Ours is what surrounds it: selectors, parameters, the order of things, and JSON Patch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, struct_pb2

Json = dict[str, Any]

LIBRARIES = cel.NewEnvConfigFromYaml(
    "extensions: [{name: optional}, {name: strings, version: 2}, {name: two-var-comprehensions}]"
)
"""Those of Kubernetes 1.36 that the policies use; its own (regex, lists, IP, …) are not here."""


class Refused(Exception):
    """The API server would not create the object."""


class Admission:
    """Admits pods under the policies and bindings among some manifests."""

    def __init__(self, manifests: Iterable[Json]) -> None:
        """Compile every expression. Raises `RuntimeError` with the place for one that is wrong."""
        found = list(manifests)
        self._mutating = [
            (Mutating(policy), binding) for policy, binding in _bound(found, "MutatingAdmissionPolicy")
        ]
        self._validating = [Validating(policy) for policy, _ in _bound(found, "ValidatingAdmissionPolicy")]

    def admit(self, pod: Json, parameters: Iterable[Json] = (), namespace: Json | None = None) -> Json:
        """Return the pod as it is stored. `parameters` are its namespace's ConfigMaps. Raises `Refused`."""
        admitted = copy.deepcopy(pod)
        labels = (namespace or {}).get("labels", {})
        for policy, binding in self._mutating:
            if policy.matches(admitted, labels):
                for given in _parameters(binding, parameters):
                    admitted = policy.mutate(admitted, given)
        for guard in self._validating:
            if guard.matches(admitted, labels):
                guard.validate(admitted)
        _well_formed(admitted)
        return admitted


class Policy:
    """What both kinds of policies have in common."""

    def __init__(self, manifest: Json) -> None:
        self._spec = manifest["spec"]

    def matches(self, pod: Json, namespace: Mapping[str, str]) -> bool:
        """Return whether the policy is about this pod, as it is created in a namespace with these labels."""
        constraints = self._spec["matchConstraints"]
        [rule] = constraints["resourceRules"]
        return (
            (rule["apiGroups"], rule["apiVersions"], rule["resources"]) == ([""], ["v1"], ["pods"])
            and "CREATE" in rule["operations"]
            and selects(constraints["namespaceSelector"], namespace)
            and selects(constraints["objectSelector"], pod["metadata"].get("labels", {}))
        )


class Mutating(Policy):
    """A MutatingAdmissionPolicy."""

    def __init__(self, manifest: Json) -> None:
        super().__init__(manifest)
        types: dict[str, cel.Type] = {}
        self._conditions = [_compile(one["expression"], {}, "BOOL") for one in self._spec["matchConditions"]]
        self._variables: dict[str, cel.Expression] = {}
        for one in self._spec["variables"]:
            name = f"variables.{one['name']}"
            self._variables[name] = _compile(one["expression"], types)
            types[name] = self._variables[name].return_type()
        self._mutations = [
            _compile(one["jsonPatch"]["expression"], types, "LIST<JSONPatch>")
            for one in self._spec["mutations"]
        ]

    def mutate(self, pod: Json, parameters: Json) -> Json:
        """Return the pod after this policy with these parameters."""
        data = {"object": pod, "params": parameters}
        if not all(_run(condition, data) for condition in self._conditions):
            return pod
        for mutation in self._mutations:
            data = {"object": pod, "params": parameters}
            for name, expression in self._variables.items():
                data[name] = _run(expression, data)
            pod = patched(pod, [_step(found) for found in _run(mutation, data)])
        return pod


class Validating(Policy):
    """A ValidatingAdmissionPolicy."""

    def __init__(self, manifest: Json) -> None:
        super().__init__(manifest)
        self._validations = [
            (_compile(one["expression"], {}, "BOOL"), _compile(one["messageExpression"], {}, "STRING"))
            for one in self._spec["validations"]
        ]

    def validate(self, pod: Json) -> None:
        """Raise `Refused` with the message of the first thing that doesn't hold."""
        data = {"object": pod, "request": {"namespace": pod["metadata"].get("namespace", "default")}}
        for expression, message in self._validations:
            if not _run(expression, data):
                raise Refused(_run(message, data))


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector takes these labels."""
    judges: dict[str, Callable[[str, Any], bool]] = {
        "Exists": lambda key, _: key in labels,
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
    }
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        judges[one["operator"]](one["key"], one.get("values")) for one in selector.get("matchExpressions", ())
    )


def patched(document: Json, steps: Iterable[Json]) -> Json:
    """Apply a JSON Patch (RFC 6902) that only adds."""
    document = copy.deepcopy(document)
    for step in steps:
        assert step["op"] == "add", step
        *way, last = step["path"].removeprefix("/").split("/")
        parent: Any = document
        for key in way:
            parent = parent[int(key)] if isinstance(parent, list) else parent[key]
        if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else int(last), step["value"])
        else:
            parent[last] = step["value"]
    return document


def _bound(manifests: list[Json], kind: str) -> Iterator[tuple[Json, Json]]:
    policies = {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}
    for binding in (one for one in manifests if one["kind"] == f"{kind}Binding"):
        yield policies[binding["spec"]["policyName"]], binding


def _parameters(binding: Json, offered: Iterable[Json]) -> list[Json]:
    reference = binding["spec"]["paramRef"]
    found = [one for one in offered if selects(reference["selector"], one["metadata"].get("labels", {}))]
    if not found and reference["parameterNotFoundAction"] == "Deny":
        raise Refused("no params found for policy binding with `Deny` parameterNotFoundAction")
    return found


@cache
def _types() -> descriptor_pool.DescriptorPool:
    """JSONPatch as Kubernetes declares it; an unknown field, or one of a wrong type, doesn't compile."""
    pool = descriptor_pool.DescriptorPool()
    value = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(value)
    field = descriptor_pb2.FieldDescriptorProto
    patch = descriptor_pb2.FileDescriptorProto(name="patch.proto", syntax="proto3", dependency=[value.name])
    message = patch.message_type.add(name="JSONPatch")
    for number, name in enumerate(("op", "path", "from"), start=1):
        message.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    message.field.add(
        name="value",
        number=4,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Value",
        label=field.LABEL_OPTIONAL,
    )
    pool.Add(value)
    pool.Add(patch)
    return pool


def _compile(expression: str, variables: Mapping[str, cel.Type], result: str = "") -> cel.Expression:
    known = {**dict.fromkeys(("object", "params", "request"), cel.Type.DYN), **variables}
    compiled = cel.NewEnv(_types(), config=LIBRARIES, variables=known).compile(expression)
    assert result in {"", compiled.return_type().name()}, (compiled.return_type().name(), expression)
    return compiled


def _run(expression: cel.Expression, data: Json) -> Any:
    result = expression.eval(data=data)
    if result.type() == cel.Type.ERROR:
        raise Refused(f"expression failed: {result.value()}")
    return result.plain_value()


def _step(message: Any) -> Json:
    return {
        "op": message.op,
        "path": message.path,
        "value": _whole(json_format.MessageToDict(message.value)),
    }


def _whole(value: Any) -> Any:
    """Read JSON's numbers as an API server does, which has whole ones in every field of a pod that we set."""
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) else value


def _well_formed(pod: Json) -> None:
    """Refuse what the API server's own validation refuses, of what a patch may bring about."""
    spec = pod["spec"]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    named = {"volumes": spec.get("volumes", []), "containers": containers}
    names = {place: [one["name"] for one in items] for place, items in named.items()}
    for one in containers:
        names[f"{one['name']}.volumeMounts"] = [mount["mountPath"] for mount in one.get("volumeMounts", [])]
    for place, found in names.items():
        if len(found) != len(set(found)):
            raise Refused(f"spec.{place}: Duplicate value among {found}")
