"""The application: a new `GmailClient` for every mail, as an own process, as the user it is run as.

`application.py SECRETS_DIR TOKEN_URL RESOURCE_URL [UID]` goes on until its standard input ends. TOKEN_URL stands for
Google's. The SDK is used as it is; its refresh and its writing are counted. Each construction that brought another
token is told as one line of JSON, with fingerprints for tokens, and so is the sum at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gmail_sdk
import gmail_sdk.auth
import httpx

ACCOUNT = "westsidebasketball"
COUNTED = ("refresh_access_token", "_save_token", "_load_credentials")
PACE = 0.05
"""Seconds between two mails, so that the machine's other core is left to others."""


def count_calls(calls: Counter[str]) -> None:
    """Count what the SDK must never need, and let it happen."""

    def counted(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return original(*args, **kwargs)

        return staticmethod(call)

    for name in COUNTED:
        setattr(gmail_sdk.GmailClient, name, counted(name, getattr(gmail_sdk.GmailClient, name)))


def become(uid: int) -> None:
    """Give up everything that root may do; done after the imports, since the packages may lie in root's home."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def may_write(folder: Path) -> bool:
    """Try what the SDK would do, and what would replace the file, without doing harm."""
    tried = [os.access(folder, os.W_OK)]
    for path, flags in (
        (folder / f"gmail-{ACCOUNT}.json", os.O_WRONLY),
        (folder / "new", os.O_CREAT | os.O_WRONLY),
    ):
        try:
            os.close(os.open(path, flags))
        except PermissionError:
            tried.append(False)
        else:
            tried.append(True)
    return any(tried)


def tell(**members: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


def send_mail(secrets_dir: str, resource_url: str) -> tuple[str, int]:
    """Construct a client and use its token; returns the token's fingerprint and the answer's status."""
    client = gmail_sdk.GmailClient(account=ACCOUNT, secrets_dir=secrets_dir)
    try:
        status = client._http.get(resource_url).status_code
    finally:
        client._http.close()
    return hashlib.sha256(str(client.access_token).encode()).hexdigest()[:12], status


def main() -> None:
    """Send mails until told to end."""
    secrets_dir, token_url, resource_url, *uid = sys.argv[1:]
    calls: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    count_calls(calls)
    gmail_sdk.auth.GOOGLE_TOKEN_URL = token_url
    httpx.get(resource_url)  # imports the rest of httpx
    if uid:
        become(int(uid[0]))
        tell(uid=os.getuid(), may_write=may_write(Path(secrets_dir)))
    constructions, last = 0, ""
    while not select.select([sys.stdin], [], [], PACE)[0]:
        fingerprint, status = send_mail(secrets_dir, resource_url)
        constructions += 1
        statuses[str(status)] += 1
        if fingerprint != last:
            tell(fingerprint=fingerprint, status=status, calls=calls)
            last = fingerprint
    tell(constructions=constructions, statuses=statuses, calls=calls)


if __name__ == "__main__":
    main()
