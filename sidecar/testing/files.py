"""The files that a simulator writes for others, private and never half-written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidecar.testing.config import ProviderConfig


def write_private(path: Path, members: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object, mode 0600, in one step."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(members, file)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def google_credentials(config: ProviderConfig, *, auth_url: str, token_url: str) -> dict[str, Any]:
    """Describe the client as Google's credentials.json does for an installed application."""
    client = {
        "client_id": config.client_id,
        "client_secret": config.client_secret,
        "auth_uri": auth_url,
        "token_uri": token_url,
    }
    return {"installed": {name: value for name, value in client.items() if value is not None}}
