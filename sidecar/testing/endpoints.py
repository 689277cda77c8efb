"""The endpoints beside `/token`, and how requests are read. No network: a request in, a `Reply` out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from sidecar.profile import BodyKind, Profile
from sidecar.testing.config import ProviderConfig
from sidecar.testing.faults import Fault, Reply
from sidecar.testing.provider import Provider
from sidecar.testing.shapes import standard_names, unmet

PLAIN = Profile()
"""Asks for nothing but what the standards say."""


@dataclass(slots=True)
class Request:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Parse a control request; an empty body is an empty object."""
        members = json.loads(self.body or b"{}")
        if not isinstance(members, dict):
            raise TypeError("a JSON object is wanted")
        return members


@dataclass(slots=True)
class Parameters:
    """The parameters of an endpoint, and what was wrong with their form."""

    form: dict[str, str] = field(default_factory=dict)
    malformed: str | None = None


def parameters(request: Request, profile: Profile = PLAIN) -> Parameters:
    """Read the parameters of an endpoint. One without a value counts as absent (RFC 6749 section 3.2)."""
    wanted = _MEDIA.get(profile.body)
    if wanted and request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        return Parameters(malformed=f"the body must be {wanted}")
    try:
        pairs = standard_names(profile, _pairs(request, profile.body))
    except (ValueError, TypeError):
        return Parameters(malformed=f"the body is not valid {wanted}")
    form = {name: value for name, value in pairs if value}
    repeated = len({name for name, _ in pairs}) < len(pairs)
    problem = "a parameter is given more than once" if repeated else unmet(profile, form, request.headers)
    return Parameters(form, problem)


_MEDIA = {BodyKind.FORM: "application/x-www-form-urlencoded", BodyKind.JSON: "application/json"}


def _pairs(request: Request, body: BodyKind) -> list[tuple[str, str]]:
    if body is BodyKind.JSON:
        return [(name, str(value)) for name, value in request.json().items()]
    text = request.query if body is BodyKind.QUERY else request.body.decode()
    return parse_qsl(text, keep_blank_values=True)


def _json_reply(status: int, members: object) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(members).encode())


# The endpoints beside /token.


def answer_client(provider: Provider, request: Request) -> Reply:
    """Answer an application or an OAuth client."""
    authorization = request.headers.get("authorization")
    match request.method, request.path:
        case "GET", "/resource":
            return provider.resource(authorization)
        case "POST", "/introspect":
            return provider.introspection(parameters(request).form, authorization)
        case "POST", "/revoke":
            return provider.revocation(parameters(request).form, authorization)
        case "GET", "/authorize":
            return provider.authorization(dict(parse_qsl(request.query)))
        case "POST", "/device":
            return provider.device_authorization(parameters(request).form, authorization)
        case _, "/token" | "/resource" | "/introspect" | "/revoke" | "/authorize" | "/device":
            return _json_reply(405, {"error": "method not allowed"})
        case _:
            return _json_reply(404, {"error": "not found"})


def answer_control(provider: Provider, request: Request) -> Reply:
    """Answer another process that drives the simulation; a mistake is answered 400 with its reason."""
    control = _CONTROLS.get((request.method, request.path))
    if control is None:
        return _json_reply(404, {"error": "not found"})
    try:
        return _json_reply(200, control(provider, request.json()))
    except (ValueError, TypeError) as mistake:
        return _json_reply(400, {"error": str(mistake)})


def _add_faults(provider: Provider, members: dict[str, Any]) -> dict[str, Any]:
    provider.add_fault(_fault(members))
    return {"faults_armed": provider.report().faults_armed}


def _fault(members: dict[str, Any]) -> Fault:
    _refuse_unknown(Fault, members)
    return msgspec.convert(members, Fault)


def _clear_faults(provider: Provider, _members: dict[str, Any]) -> dict[str, Any]:
    provider.clear_faults()
    return {"faults_armed": 0}


def _new_grant(provider: Provider, members: dict[str, Any]) -> dict[str, Any]:
    return {"refresh_token": provider.new_grant(str(members.get("scope", "")))}


def _kill(provider: Provider, members: dict[str, Any]) -> dict[str, Any]:
    """Take a `refresh_token`, a `fingerprint` or a `family`; none of them ends every grant."""
    named = (members.get(name) for name in ("refresh_token", "fingerprint", "family"))
    return {"killed": provider.kill(next((str(name) for name in named if name is not None), None))}


def _reconfigure(provider: Provider, members: dict[str, Any]) -> dict[str, Any]:
    _refuse_unknown(ProviderConfig, members)
    # Converted as a whole, so that strings become the enumeration members they name.
    asked = msgspec.convert(members, ProviderConfig)
    provider.reconfigure(**{name: getattr(asked, name) for name in members})
    return {"changed": sorted(members)}


def _report(provider: Provider, _members: dict[str, Any]) -> dict[str, Any]:
    return provider.report().as_dict()


def _refuse_unknown(wanted: type[Fault | ProviderConfig], members: dict[str, Any]) -> None:
    unknown = members.keys() - {known.name for known in fields(wanted)}
    if unknown:
        raise ValueError(f"unknown members: {', '.join(sorted(unknown))}")


_CONTROLS: Mapping[tuple[str, str], Callable[[Provider, dict[str, Any]], dict[str, Any]]] = {
    ("POST", "/_sim/faults"): _add_faults,
    ("DELETE", "/_sim/faults"): _clear_faults,
    ("POST", "/_sim/grants"): _new_grant,
    ("POST", "/_sim/kill"): _kill,
    ("POST", "/_sim/config"): _reconfigure,
    ("GET", "/_sim/report"): _report,
}
