"""What sealed bytes look like: a JWE in compact form (RFC 7516).

Any tool that knows the format can open it with the key, should this one be out of reach. It is text, and fits
wherever a record in clear does.
"""

from __future__ import annotations

import base64
import binascii
import json

PARTS = 5
"""Header, wrapped data key, nonce, text, tag."""


def key_of(data: bytes) -> str | None:
    """Return the id of the key that bytes are sealed with, as they say themselves; None: they are not sealed."""
    parts = data.split(b".")
    if len(parts) != PARTS:
        return None
    try:
        header = json.loads(unarmoured(parts[0]))
    except (ValueError, RecursionError):
        return None
    key_id = header.get("kid") if isinstance(header, dict) else None
    # Shown in messages: nothing but what an id of ours can look like.
    return key_id if isinstance(key_id, str) and is_key_id(key_id) else None


def is_key_id(text: str) -> bool:
    """Tell whether this is how the ids of keys look."""
    return len(text) == 12 and set(text) <= set("0123456789abcdef")  # noqa: PLR2004 - as fingerprints


def armoured(data: bytes) -> bytes:
    """Write bytes as base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def unarmoured(text: bytes) -> bytes:
    """Read what `armoured` wrote, and no other spelling of it. Raises `ValueError`."""
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    # Python skips foreign characters and ignores spare bits; a changed byte must never go unnoticed.
    if armoured(data) != text:
        raise ValueError("not base64url")
    return data
