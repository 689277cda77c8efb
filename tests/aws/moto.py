"""moto's server: AWS Secrets Manager on loopback, in this process, and what of it is corrected to be like AWS.

docs/explanation/stores.md tells what else differs, and what a test over it therefore does not prove.
"""

from __future__ import annotations

import functools
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

import boto3
import pytest
from moto.secretsmanager.models import FakeSecret, SecretsManagerBackend, secretsmanager_backends
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"
ACCOUNT = "123456789012"


class Moto:
    """One server, and a client of it that is not ours."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.env = {
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.client: Any = boto3.client(
            "secretsmanager",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def prefix(self) -> str:
        """Name a place of one's own."""
        return f"t{secrets.token_hex(4)}"

    def put(self, name: str, value: Mapping[str, Any] | str) -> None:
        """Write a secret as somebody else does, whether or not it is there."""
        text = value if isinstance(value, str) else json.dumps(value)
        try:
            self.client.put_secret_value(SecretId=name, SecretString=text)
        except self.client.exceptions.ResourceNotFoundException:
            self.client.create_secret(Name=name, SecretString=text)

    def text(self, name: str) -> str:
        """Read what everybody gets who names no version."""
        found: str = self.client.get_secret_value(SecretId=name)["SecretString"]
        return found

    def value(self, name: str) -> dict[str, Any]:
        """Read it as JSON."""
        found: dict[str, Any] = json.loads(self.text(name))
        return found

    def versions(self, name: str) -> dict[str, list[str]]:
        """Tell the labels of each version."""
        found: dict[str, list[str]] = self.client.describe_secret(SecretId=name)["VersionIdsToStages"]
        return found

    def tags(self, name: str) -> dict[str, str]:
        """Tell the tags of a secret."""
        found = self.client.describe_secret(SecretId=name).get("Tags", [])
        return {tag["Key"]: tag["Value"] for tag in found}

    def exists(self, name: str) -> bool:
        """Tell whether there is such a secret, deleted or not."""
        return name in secretsmanager_backends[ACCOUNT][REGION].secrets


def _current(secret: FakeSecret) -> str | None:
    labels = ((version, content["version_stages"]) for version, content in secret.versions.items())
    return next((version for version, stages in labels if "AWSCURRENT" in stages), None)


CHANGES = (
    "create_secret",
    "put_secret_value",
    "update_secret_version_stage",
    "delete_secret",
    "tag_resource",
)


@contextmanager
def corrected() -> Iterator[None]:
    """Have whoever names no version get the current one, and changes be made one by one.

    moto forgets where AWSCURRENT was moved to, and lets two requests at once both pass its checks.
    """
    turn = Lock()

    def alone(change: Any) -> Any:
        @functools.wraps(change)
        def changed(*args: Any, **members: Any) -> Any:
            with turn:
                return change(*args, **members)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSecret, "default_version_id", property(_current, lambda *_: None), raising=False)
        for name in CHANGES:
            patch.setattr(SecretsManagerBackend, name, alone(getattr(SecretsManagerBackend, name)))
        yield


@contextmanager
def running() -> Iterator[Moto]:
    """Run it for as long as the block lasts."""
    logging.getLogger("werkzeug").disabled = True
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with corrected():
        server.start()
        host, port = server.get_host_and_port()
        try:
            yield Moto(f"http://{host}:{port}")
        finally:
            server.stop()
