"""The application as it runs in its pods: routes in a thread pool, and a new `GmailClient` for every mail.

`python -m tests.scenarios.s1_whole.application SUBJECT SECRETS_DIR API_URL [UID]` sends mails, as SUBJECT, until its
standard input ends. API_URL stands for Google's API; for Google's token endpoint there is nobody, since the SDK must
never need it. The first line tells who it is; the last one how many mails were sent, what failed, and what the SDK did
that it must not need.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import gmail_sdk
import gmail_sdk.auth
import gmail_sdk.client
import httpx
from gmail_sdk.mime_utils import build_simple_message

from tests.scenarios.s1_basketball_api.application import ACCOUNT, become, count_calls, may_write, tell

THREADS = 3
NOBODY_THERE = "http://127.0.0.1:9/token"
PACE = 0.5
"""Seconds from one mail of a thread to its next."""


def send(secrets_dir: str, subject: str) -> None:
    """Send one mail, as the application's route does."""
    client = gmail_sdk.GmailClient(account=ACCOUNT, secrets_dir=secrets_dir)
    try:
        client.send_message(to="player@example.com", subject=subject, body="Practice is at six.")
    finally:
        client._http.close()


def prepare() -> None:
    """Have everything imported while that is allowed: the interpreter may lie in root's home."""
    build_simple_message(to="nobody@example.com", subject="", body="")
    with suppress(httpx.TransportError):
        httpx.post(NOBODY_THERE)


def main() -> None:
    """Send mails until told to end."""
    subject, secrets_dir, api_url, *uid = sys.argv[1:]
    calls: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    over, sent = threading.Event(), [0] * THREADS
    count_calls(calls)
    gmail_sdk.auth.GOOGLE_TOKEN_URL = NOBODY_THERE
    gmail_sdk.client.GMAIL_BASE = f"{api_url}/gmail/v1"

    prepare()

    def route(number: int) -> None:
        while not over.wait(PACE):
            try:
                send(secrets_dir, subject)
                sent[number] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, a mail wasn't sent
                if not failures:
                    tell(failure=repr(error))
                failures[repr(error)] += 1

    if uid:
        become(int(uid[0]))
        tell(may_write=may_write(Path(secrets_dir)))
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(THREADS):
            pool.submit(route, number)
        sys.stdin.read()
        over.set()
    tell(sent=sum(sent), failures=failures, calls=calls)


if __name__ == "__main__":
    main()
