"""A serverless backend as scenario S6 has it: one secret per user, read with boto3 by each function that sends mail."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

PREFIX = "gmail/user"
CLIENT = "Google-OAuth-Client-ID"


class Reconnect(Exception):
    """The user has to connect the mailbox again."""


class Backend:
    """What of the backend deals with tokens."""

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.secrets: Any = boto3.client("secretsmanager")

    def connected(self, user_id: str, answer: dict[str, Any], *, ago: timedelta) -> None:
        """Keep what the provider's token endpoint answered when a user connected a mailbox."""
        now = datetime.now(UTC).replace(tzinfo=None) - ago
        secret = {
            "access_token": answer["access_token"],
            "refresh_token": answer["refresh_token"],
            "expires_at": (now + timedelta(seconds=answer["expires_in"])).isoformat(timespec="microseconds"),
            "expires_in": answer["expires_in"],
            "scope": answer["scope"],
            "token_type": "Bearer",
            "created_at": now.isoformat(timespec="microseconds"),
            "google_user_id": f"1138-{user_id}",
            "google_email": f"{user_id}@example.com",
            "google_name": f"User {user_id}",
            "google_verified_email": True,
        }
        self.secrets.create_secret(Name=self.name(user_id), SecretString=json.dumps(secret))

    def name(self, user_id: str) -> str:
        """Name a user's secret."""
        return f"{self.prefix}/{user_id}"

    def stored(self, user_id: str) -> dict[str, Any]:
        """Read a user's secret."""
        try:
            answer = self.secrets.get_secret_value(SecretId=self.name(user_id))
        except self.secrets.exceptions.ResourceNotFoundException:
            raise Reconnect(user_id) from None
        secret: dict[str, Any] = json.loads(answer["SecretString"])
        return secret

    def access_token(self, user_id: str) -> str:
        """Return an access token that lives for another five minutes at least."""
        secret = self.stored(user_id)
        ends = datetime.strptime(secret["expires_at"], "%Y-%m-%dT%H:%M:%S.%f")  # noqa: DTZ007 - it is UTC
        if ends < datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=5):
            raise Reconnect(user_id)
        token: str = secret["access_token"]
        return token

    def versions(self, user_id: str) -> int:
        """Count the versions of a user's secret."""
        return len(self.secrets.describe_secret(SecretId=self.name(user_id))["VersionIdsToStages"])
