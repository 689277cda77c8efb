"""A provider's own way of asking and answering, as its profile tells it, on both sides of the standard's.

Inside, the simulator knows nothing but the names of RFC 6749. What comes in is brought to them here, and what goes
out is brought into the shape that the profile describes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Unpack
from urllib.parse import urlencode

from sidecar.profile import ErrorRule, ExpiryKind, Profile
from sidecar.testing.faults import Fault, Match
from sidecar.tokens import OutcomeClass

USUAL_STATUS = {OutcomeClass.TRANSIENT: 429, OutcomeClass.IN_DOUBT: 500}


# Requests.


def standard_names(profile: Profile, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Bring the provider's names back to the standard's, which it doesn't know itself where it has others."""
    renamed = {own: name for name, own in profile.param_names.items()}
    known = ((name, value) for name, value in pairs if name in renamed or name not in profile.param_names)
    return [(renamed.get(name, name), value) for name, value in known]


def unmet(profile: Profile, form: Mapping[str, str], headers: Mapping[str, str]) -> str | None:
    """Say what this provider demands and a request doesn't have; header names of `headers` are in lower case."""
    for name, value in profile.extra_params.items():
        if form.get(name) != value:
            return f"the parameter {name} must be {value}"
    for name, value in profile.extra_headers.items():
        if headers.get(name.lower()) != value:
            return f"the header {name} must be {value}"
    return None


# Answers.


def success(profile: Profile, members: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Lay out a success (RFC 6749 section 5.1) as this provider does. Lifetimes come in seconds; `inf` is for ever."""
    shape = profile.answer
    document: dict[str, Any] = dict(shape.success)
    for name, value in members.items():
        match name:
            case "expires_in":
                told = _told(value, shape.expires_kind, now, zero_means_never=profile.zero_means_never)
                place = shape.expires
            case "refresh_token_expires_in":
                told, place = _told(value, shape.refresh_expires_kind, now), shape.refresh_expires[0]
            case "access_token" | "refresh_token" | "token_type" | "scope":
                told, place = value, getattr(shape, name)
            case _:
                told, place = value, name
        if told is not None:
            _put(document, place, told)
    return document


def refusal(profile: Profile, error: str, description: str, status: int) -> tuple[int, dict[str, Any]]:
    """Say no as this provider does; returns the status and the body. `error` is a code of RFC 6749 section 5.2.

    The first rule of the profile that calls an answer suspect is its `invalid_grant`, and the first that calls one
    misconfigured its `invalid_client`.
    """
    meant = {"invalid_grant": OutcomeClass.SUSPECT, "invalid_client": OutcomeClass.MISCONFIGURED}.get(error)
    rule = next((rule for rule in profile.errors if rule.outcome is meant and rule.code), None)
    if rule is not None:
        return _by_rule(profile, rule, description)
    return (200 if profile.answer.success else status), _refused(profile, error, description)


def fault(profile: Profile, rule: ErrorRule, **match: Unpack[Match]) -> Fault:
    """Make the answer that one of the profile's rules speaks of. Where it leaves doubt, the request is processed."""
    status, document = _by_rule(profile, rule, "")
    return Fault(
        status=status, body=json.dumps(document), processed=rule.outcome is OutcomeClass.IN_DOUBT, **match
    )


def example(pattern: str) -> str:
    """Give a text that a rule's pattern finds: patterns are alternatives of plain words."""
    return pattern.partition("|")[0]


def form_encoded(document: Mapping[str, Any]) -> bytes:
    """Write an answer as a form, as GitHub does where JSON wasn't asked for."""
    return urlencode(document).encode()


def _by_rule(profile: Profile, rule: ErrorRule, description: str) -> tuple[int, dict[str, Any]]:
    usual = 200 if profile.answer.success else USUAL_STATUS.get(rule.outcome, 400)
    text = example(rule.description) if rule.description else description
    return rule.status or usual, _refused(profile, rule.code or "invalid_request", text)


def _refused(profile: Profile, code: str, description: str) -> dict[str, Any]:
    shape = profile.answer
    document: dict[str, Any] = {}
    for path, value in shape.success.items():
        _put(document, path, not value if isinstance(value, bool) else f"not {value}")
    _put(document, shape.error_description or "error_description", description)
    # Where success is the number 0, an error is another number.
    number = shape.error in shape.success and isinstance(shape.success[shape.error], int)
    _put(document, shape.error or "error", _number(code) if number else code)
    return document


def _number(code: str) -> int:
    return int(code) if code.isdecimal() else 100 + sum(code.encode()) % 400


def _told(left: float, kind: ExpiryKind, now: float, *, zero_means_never: bool = False) -> Any:
    """Write the end of a token that lives for `left` seconds from `now`; None: it isn't told."""
    if kind in {ExpiryKind.NEVER, ExpiryKind.ABSENT}:
        return None
    if math.isinf(left):
        return 0 if zero_means_never else None
    match kind:
        case ExpiryKind.MILLISECONDS:
            return int(left * 1000)
        case ExpiryKind.MINUTES:
            return left / 60
        case ExpiryKind.EPOCH:
            return int(now + left)
        case ExpiryKind.EPOCH_MILLISECONDS:
            return int((now + left) * 1000)
        case ExpiryKind.ISO8601:
            return (
                datetime.fromtimestamp(now + left, UTC)
                .isoformat(timespec="milliseconds")
                .replace("+00:00", "Z")
            )
        case _:
            return left


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set what a dotted path names, making objects and lists on the way."""
    parts = list(_parts(path))
    place: Any = document
    for part, following in pairwise(parts):
        place = _step(place, part, [] if isinstance(following, int) else {})
    _step(place, parts[-1], value, replace=True)


def _step(place: Any, part: str | int, value: Any, *, replace: bool = False) -> Any:
    if isinstance(part, int):
        place.extend({} for _ in range(part + 1 - len(place)))
    if replace or (isinstance(place, dict) and part not in place):
        place[part] = value
    return place[part]


def _parts(path: str) -> Iterator[str | int]:
    for part in path.split("."):
        yield int(part) if part.isdecimal() else part
