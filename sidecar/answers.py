"""What stands where in an answer: reading it by the profile's shape, without judging it.

Nothing here raises, whatever was answered: what cannot be understood is as good as absent.
"""

from __future__ import annotations

import base64
import json
import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from sidecar.profile import ExpiryKind

if TYPE_CHECKING:
    from sidecar.ports import Answer
    from sidecar.profile import AnswerShape

LONGEST_TTL = 10 * 365 * 86400.0
"""Seconds; more is not a lifetime (TikTok sends a Unix time) and counts as absent."""
LONGEST_RETRY_AFTER = 3600.0

_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)
_FORM = "application/x-www-form-urlencoded"


# The body.


def document(answer: Answer) -> dict[str, Any] | None:
    """Read the body: a JSON object, or a form. None for anything else; of members that come twice the last counts.

    GitHub answers with a form where JSON was not asked for. Facebook once did, and called it plain text.
    """
    found = json_object(answer.body)
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found is None and (media == _FORM or answer.body.startswith(b"access_token=")):
        return _form(answer.body)
    return found


def json_object(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else."""
    try:
        found = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _form(body: bytes) -> dict[str, Any] | None:
    try:
        return dict(parse_qsl(body.decode(), errors="strict")) or None
    except ValueError:
        return None


def _integer(digits: str) -> float:
    """Read an integer however long: Python refuses thousands of digits, and the tokens beside them."""
    return int(digits) if len(digits) <= 20 else math.inf  # noqa: PLR2004


def at(found: Any, path: str) -> Any:
    """Follow a dotted path into objects, and by number into lists; None where it leads nowhere."""
    for part in path.split("."):
        try:
            found = found[int(part)] if isinstance(found, list) else found.get(part)
        except (AttributeError, ValueError, IndexError):
            return None
    return found


def refused(found: dict[str, Any], shape: AnswerShape) -> bool:
    """Tell whether a member says that this is no success, whatever stands beside it."""
    # Slack's way is known without a profile.
    return found.get("ok") is False or any(
        (held := at(found, path)) is not None and not _same(held, wanted)
        for path, wanted in shape.success.items()
    )


def _same(held: object, wanted: object) -> bool:
    # JSON's true is no 1, though Python's is.
    return held == wanted and isinstance(held, bool) == isinstance(wanted, bool)


def codes(found: dict[str, Any], shape: AnswerShape) -> list[str]:
    """Gather what may be an error code: from the profile's place, then the standard's, then wherever providers put it.

    Numbers count in the profile's place alone: elsewhere they repeat the status.
    """
    named = at(found, shape.error) if shape.error else None
    if isinstance(named, int) and not isinstance(named, bool):
        named = str(named)
    error = found.get("error")
    places = [error]
    if isinstance(error, dict):
        places = [error.get("code"), error.get("type"), error.get("status")]
    listed = found.get("errors")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        places += [listed[0].get("errorType"), listed[0].get("code")]
    places += [found.get(name) for name in ("errorCode", "code", "status")]
    return [code for code in (named, *places) if isinstance(code, str) and code]


def description(found: dict[str, Any], shape: AnswerShape) -> str:
    """Gather what is said about an error; empty where nothing is."""
    named = at(found, shape.error_description) if shape.error_description else None
    texts = [named, *(found.get(name) for name in ("error_description", "error_subtype", "suberror"))]
    return " ".join(text for text in texts if isinstance(text, str))


# Its members.


def printable(value: object) -> str | None:
    """Accept what can be put into a file or header as it is: a string without control characters."""
    if isinstance(value, str) and value and value.isprintable() and not value.isspace():
        return value
    return None


def storable(value: object) -> str | None:
    """Accept any string that can be written down: only the provider has to understand a refresh token."""
    if not isinstance(value, str) or not value:
        return None
    return None if any("\ud800" <= char <= "\udfff" for char in value) else value


def scope(value: object) -> str | None:
    """Read the scopes, which some providers send as a list."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = " ".join(value)
    return printable(value)


def is_zero(value: object) -> bool:
    """Tell whether a number is 0, however it is written."""
    return _number(value) == 0


def left(value: object, kind: ExpiryKind, clock: float) -> float | None:
    """Tell in how many seconds a token ends that is said to end so; None for what makes no sense.

    `clock` (Unix seconds) is what the provider's clock showed: moments are told by that one.
    """
    if kind is ExpiryKind.ISO8601:
        moment = _moment(value)
        return None if moment is None else _bounded(moment - clock)
    number = _number(value)
    if number is None:
        return None
    match kind:
        case ExpiryKind.MINUTES:
            return _bounded(number * 60)
        case ExpiryKind.MILLISECONDS:
            return _bounded(number / 1000)
        case ExpiryKind.EPOCH:
            return _bounded(number - clock)
        case ExpiryKind.EPOCH_MILLISECONDS:
            return _bounded(number / 1000 - clock)
        case ExpiryKind.NEVER:
            return None
        case _:
            return _bounded(number)


def _bounded(seconds: float) -> float | None:
    return seconds if abs(seconds) <= LONGEST_TTL else None


def _number(value: object) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _moment(value: object) -> float | None:
    """Read a date and time of ISO 8601; without an offset it is in UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def jwt_end(token: str) -> float | None:
    """Read `exp` (RFC 7519 §4.1.4) off an access token that is a JWT, without verifying it."""
    parts = token.split(".")
    if len(parts) != 3 or len(parts[1]) > 16384:  # noqa: PLR2004
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
    except ValueError:
        return None
    claims = json_object(payload)
    end = claims.get("exp") if claims else None
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end < 1e11:  # noqa: PLR2004
        return None
    return float(end)


# The headers.


def skew(answer: Answer) -> float | None:
    """Measure how far the provider's clock is ahead, in seconds; 0: too little to tell; None: no Date came."""
    date = _date(answer.headers.get("date", ""))
    if date is None:
        return None
    trip = max(answer.received_at - answer.sent_at, 0.0)
    # A Date has whole seconds, cut off.
    ahead = date + 0.5 - (answer.sent_at + trip / 2)
    return ahead if abs(ahead) >= max(2.0, trip / 2 + 1) else 0.0


def retry_after(answer: Answer) -> float | None:
    """Read Retry-After in both forms (RFC 9110 §10.2.3); a date counts from the answer's own."""
    value = answer.headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(value):
        seconds = float(value)
    else:
        until = _date(value)
        if until is None:
            return None
        sent = _date(answer.headers.get("date", ""))
        seconds = until - (answer.received_at if sent is None else sent)
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
