from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from sidecar.config import reference, schema
from sidecar.config.settings import ProviderSettings
from sidecar.profile import Profile

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
RENEW = "python -m sidecar.config.reference docs/reference"


def test_the_reference_is_written_by_its_module(tmp_path: Path) -> None:
    """One command renews both files."""
    reference.write(tmp_path)
    assert json.loads((tmp_path / "config.schema.json").read_text()) == schema.generate()
    assert (tmp_path / "configuration.md").read_text() == reference.generate()


def test_every_key_is_described() -> None:
    """Whoever reads the reference page finds a meaning for every key."""
    lacking = [line for line in reference.generate().splitlines() if line.endswith("|  |")]
    assert lacking == []


def test_every_field_of_a_profile_can_be_configured() -> None:
    """Own profiles can say all that built-in ones say, but where it is from and who tried it."""
    own = {field.name for field in msgspec.structs.fields(ProviderSettings)} - {"extends"}
    assert own == {field.name for field in msgspec.structs.fields(Profile)} - {
        "notes",
        "sources",
        "tested",
    }


TOKEN = {"provider": "google", "client": {"file": "c.json"}, "outputs": [{"file": "t", "mode": "0640"}]}


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"seed": "s"}, True),
        ({"seed": {"file": "s", "format": "raw"}}, True),
        ({"lease": "9s", "refresh_at": 0.5, "required": False}, True),
        ({"lease": "${LEASE}", "refresh_at": "${AT}", "required": "${R}", "on_dead": "${D:-report}"}, True),
        ({"provider": {"token_url": "https://x"}}, True),
        ({"lease": "soon"}, False),
        ({"outputs": [{"file": "t", "mode": 640}]}, False),
        ({"on_dead": "never"}, False),
        ({"sed": "s"}, False),
    ],
)
def test_the_schema_takes_what_the_daemon_takes(*, change: dict[str, Any], valid: bool) -> None:
    """An editor that validates against the schema agrees with the daemon, variables included."""
    validator = jsonschema.Draft202012Validator(schema.generate())
    assert validator.is_valid({"tokens": {"a": TOKEN | change}}) is valid


def test_the_schema_is_one() -> None:
    """The schema itself fulfils the schema of schemas."""
    jsonschema.Draft202012Validator.check_schema(schema.generate())
