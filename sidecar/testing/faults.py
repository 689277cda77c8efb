"""Scripted faults: what goes wrong, for which request, and how often.

A `Fault` is data. The functions below make the usual ones; each takes the keywords of `Match` as well:

    provider.add_fault(faults.status(503, retry_after=5), faults.reset(times=2))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import StrEnum
from typing import Any, TypedDict, Unpack

HTML_PAGE = "<!doctype html><html><body><h1>Sign in to the guest network</h1></body></html>"
HUGE_SECONDS = 10**18


class Delivery(StrEnum):
    """How an answer goes out."""

    WHOLE = "whole"
    TRICKLE = "trickle"
    """A few bytes at a time; see `trickle_bytes` and `trickle_interval`."""

    HALF = "half"
    """Headers that promise the whole body, half of it, then the connection closes."""

    CLOSE = "close"
    """The connection closes without a byte."""

    RESET = "reset"
    """The connection is reset (TCP RST) without a byte."""

    HOLD = "hold"
    """Nothing is sent until the client hangs up."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `body` is followed by `padding` bytes of white space when sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    padding: int = 0

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong. The first fault of the script that matches a request takes it."""

    times: int | None = 1
    """How many requests it takes; None is every one until the script is cleared."""

    skip: int = 0
    """How many matching requests it lets pass first."""

    grant_type: str | None = None
    fingerprint: str | None = None
    """Only requests that present this refresh token."""

    latency_before: float = 0.0
    """Seconds from arrival to processing."""

    latency_after: float = 0.0
    """Seconds from processing to answering: a rotation has happened and nobody knows."""

    processed: bool = True
    """False: the token endpoint's state machine never sees the request."""

    repeat_access_token: bool = False
    """Answer the access token that is alive already, without rotating."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to those of the answer, or put in place of them."""

    retry_after: float | None = None
    """Seconds."""

    retry_after_date: bool = False
    """Give `Retry-After` as an HTTP date by the provider's clock."""

    body: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Members set in the JSON answer."""

    omit: tuple[str, ...] = ()
    """Members removed from the JSON answer."""

    keep: float = 1.0
    """The share of the body that is kept, 0 to 1. The headers agree with what is sent."""

    padding: int = 0
    """Bytes of white space streamed after the body."""

    delivery: Delivery = Delivery.WHOLE
    trickle_bytes: int = 1
    trickle_interval: float = 0.1
    """Seconds between two pieces."""

    def __post_init__(self) -> None:
        """Refuse what can't happen."""
        if not 0 <= self.keep <= 1:
            raise ValueError("keep must be within 0 and 1")
        if min(self.latency_before, self.latency_after, self.skip, self.padding, self.trickle_interval) < 0:
            raise ValueError("latencies, intervals, skip and padding can't be negative")
        if self.status is not None and not 200 <= self.status <= 599:  # noqa: PLR2004 - final HTTP statuses
            raise ValueError("status must be within 200 and 599")
        if self.trickle_bytes < 1:
            raise ValueError("trickle_bytes must be at least 1")

    def matches(self, grant_type: str, fingerprint: str | None) -> bool:
        """Tell whether a request is of the kind this fault waits for."""
        return self.grant_type in (None, grant_type) and self.fingerprint in (None, fingerprint)

    def reshape(self, reply: Reply, now: float) -> Reply:
        """Turn the true answer into the faulty one; `now` is the provider's clock."""
        body = reply.body if self.body is None else self.body.encode()
        if self.fields or self.omit:
            body = self._edited(body)
        return Reply(
            status=self.status or reply.status,
            headers={**reply.headers, **self._retry_header(now), **self.headers},
            body=body[: round(len(body) * self.keep)],
            padding=self.padding,
        )

    def _edited(self, body: bytes) -> bytes:
        members = {**json.loads(body or b"{}"), **self.fields}
        return json.dumps({name: value for name, value in members.items() if name not in self.omit}).encode()

    def _retry_header(self, now: float) -> dict[str, str]:
        if self.retry_after is None:
            return {}
        if self.retry_after_date:
            return {"Retry-After": formatdate(now + self.retry_after, usegmt=True)}
        return {"Retry-After": f"{self.retry_after:.0f}"}


NO_FAULT = Fault(times=None)


class FaultScript:
    """Faults in the order they were added, each with the count of what it has seen."""

    def __init__(self) -> None:
        """Start with an empty script."""
        self._faults: list[Fault] = []

    def __len__(self) -> int:
        """Count the faults that are still armed."""
        return len(self._faults)

    def add(self, fault: Fault) -> None:
        """Append a fault."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Disarm everything."""
        self._faults.clear()

    def take(self, grant_type: str, fingerprint: str | None) -> Fault:
        """Give the fault for this request, or `NO_FAULT`, and count it."""
        for index, fault in enumerate(self._faults):
            if not fault.matches(grant_type, fingerprint):
                continue
            if fault.skip:
                self._faults[index] = replace(fault, skip=fault.skip - 1)
                continue
            if fault.times is not None:
                self._spend(index, fault, fault.times - 1)
            return fault
        return NO_FAULT

    def _spend(self, index: int, fault: Fault, left: int) -> None:
        if left > 0:
            self._faults[index] = replace(fault, times=left)
        else:
            del self._faults[index]


class Match(TypedDict, total=False):
    """Which requests a fault is for, and how late they are served: see the members of `Fault`."""

    times: int | None
    skip: int
    grant_type: str | None
    fingerprint: str | None
    latency_before: float
    latency_after: float


def status(
    code: int, *, retry_after: float | None = None, processed: bool = False, **match: Unpack[Match]
) -> Fault:
    """Answer with a bare status, such as 500, 503 or 429, and an empty JSON object."""
    return Fault(status=code, retry_after=retry_after, processed=processed, body="{}", **match)


def error(code: int, name: str, description: str | None = None, **match: Unpack[Match]) -> Fault:
    """Answer with an OAuth error (RFC 6749 section 5.2) at any status, 403 among them."""
    fields = {"error": name} | ({} if description is None else {"error_description": description})
    return Fault(status=code, processed=False, fields=fields, **match)


def error_at_200(name: str, **match: Unpack[Match]) -> Fault:
    """Answer 200 with `{"ok": false, "error": …}`."""
    return Fault(status=200, processed=False, fields={"ok": False, "error": name}, **match)


def html(*, processed: bool = False, **match: Unpack[Match]) -> Fault:
    """Answer 200 with a web page, as a captive portal does."""
    headers = {"Content-Type": "text/html; charset=utf-8"}
    return Fault(status=200, processed=processed, headers=headers, body=HTML_PAGE, **match)


def redirect(location: str, code: int = 302, **match: Unpack[Match]) -> Fault:
    """Answer 302 or 307 to another address."""
    return Fault(status=code, processed=False, headers={"Location": location}, body="", **match)


def truncated(keep: float = 0.5, **match: Unpack[Match]) -> Fault:
    """Process, then answer broken JSON in a well-formed HTTP answer."""
    return Fault(keep=keep, **match)


def empty(**match: Unpack[Match]) -> Fault:
    """Process, then answer with no body at all."""
    return Fault(body="", **match)


def huge(padding: int = 50_000_000, **match: Unpack[Match]) -> Fault:
    """Process, then answer valid JSON and megabytes of white space, chunked, without a Content-Length."""
    return Fault(padding=padding, **match)


def expires_in(value: object, **match: Unpack[Match]) -> Fault:
    """Process, then answer another `expires_in`: a string, 0, negative, a float, `HUGE_SECONDS`."""
    return Fault(fields={"expires_in": value}, **match)


def without(*members: str, **match: Unpack[Match]) -> Fault:
    """Process, then leave members out of the answer, such as `expires_in`."""
    return Fault(omit=members, **match)


def extra(fields: Mapping[str, Any], **match: Unpack[Match]) -> Fault:
    """Process, then add members to the answer."""
    return Fault(fields=fields, **match)


def content_type(value: str, **match: Unpack[Match]) -> Fault:
    """Process, then answer with another Content-Type."""
    return Fault(headers={"Content-Type": value}, **match)


def same_token(**match: Unpack[Match]) -> Fault:
    """Answer the access token that is alive already."""
    return Fault(repeat_access_token=True, **match)


def latency(*, before: float = 0.0, after: float = 0.0, **match: Unpack[Match]) -> Fault:
    """Be slow, in seconds, before or after processing."""
    return replace(Fault(**match), latency_before=before, latency_after=after)


def reset(*, processed: bool = False, **match: Unpack[Match]) -> Fault:
    """Reset the connection before processing, or after it: the answer is lost."""
    return Fault(delivery=Delivery.RESET, processed=processed, **match)


def close(*, processed: bool = False, **match: Unpack[Match]) -> Fault:
    """Close the connection without a byte, before or after processing."""
    return Fault(delivery=Delivery.CLOSE, processed=processed, **match)


def hold(*, processed: bool = False, **match: Unpack[Match]) -> Fault:
    """Never answer."""
    return Fault(delivery=Delivery.HOLD, processed=processed, **match)


def half(**match: Unpack[Match]) -> Fault:
    """Process, send half of the answer, close."""
    return Fault(delivery=Delivery.HALF, **match)


def trickle(*, bytes_at_once: int = 1, interval: float = 0.1, **match: Unpack[Match]) -> Fault:
    """Process, then send the body a few bytes at a time."""
    return Fault(delivery=Delivery.TRICKLE, trickle_bytes=bytes_at_once, trickle_interval=interval, **match)
