"""What the demo asks the simulated provider. Nothing here raises when it doesn't answer: somebody may have ended it."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 2.0
ISSUED = {"rotated", "unrotated", "issued", "same_token", "grace"}
"""Outcomes of requests that were answered with an access token."""

BY_HAND = {"killed", "revoked"}
"""Reasons for a grant's end that are somebody's decision, not the answer to a reused refresh token."""


def is_live(base: str, access_token: str) -> bool | None:
    """Ask a protected resource; None: no answer."""
    answer = _get(base, "/resource", {"Authorization": f"Bearer {access_token}"})
    return None if answer is None else answer[0] == http.client.OK


def report(base: str) -> dict[str, Any] | None:
    """Return what the simulator has counted; see `sidecar.testing.Report`."""
    answer = _get(base, "/_sim/report", {})
    if answer is None or answer[0] != http.client.OK:
        return None
    document: dict[str, Any] = json.loads(answer[1])
    return document


def issued(document: dict[str, Any]) -> dict[str, int]:
    """Count the access tokens that were given out, by grant type."""
    counts: dict[str, int] = {}
    for request in document["requests"]:
        if request["outcome"] in ISSUED and request["status"] == http.client.OK:
            counts[request["grant_type"]] = counts.get(request["grant_type"], 0) + 1
    return counts


def _get(base: str, path: str, headers: dict[str, str]) -> tuple[int, bytes] | None:
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
