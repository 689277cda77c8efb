from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from sidecar import formats
from sidecar.config.settings import JsonField, OutputFormat, OutputTarget, SeedFormat
from sidecar.errors import ConfigError


def target(**options: Any) -> OutputTarget:
    """Configure an output."""
    return OutputTarget(file=Path("/run/tokens/t"), **options)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"format": "gmail-skd"}, ["format: there is no `gmail-skd`; did you mean `gmail-sdk`?"]),
        ({"format": "xml"}, [f"format: there is no `xml`; one of {', '.join(formats.NAMES)}"]),
        (
            {"format": "raw", "fields": {"access_token": "a"}},
            ["fields: only the format `json` and `dotenv` has it, and this one is `raw`"],
        ),
        (
            {"machine": "api.example", "template": "x", "login": "me"},
            [
                "machine: only the format `netrc` has it, and this one is `json`",
                "login: only the format `netrc` has it, and this one is `json`",
                "template: only the format `template` has it, and this one is `json`",
            ],
        ),
        ({"format": "netrc"}, ["machine: is missing; name the host that the token is for"]),
        (
            {"format": "netrc", "machine": "a b", "login": "#me"},
            [
                "machine: must be one word without quotes, `#` or backslash",
                "login: must be one word without quotes, `#` or backslash",
            ],
        ),
        (
            {"format": "template"},
            ["template: is missing; write the text that the application wants, as a Jinja2 template"],
        ),
        (
            {"format": "template", "template": "a\n{{ acess_token }}"},
            ["template: the template can't be rendered: 'acess_token' is undefined"],
        ),
        (
            {"format": "template", "template": "a\n{{ access_token"},
            [
                "template: line 2 of the template: unexpected end of template, expected 'end of print statement'."
            ],
        ),
        (
            {"format": "dotenv", "fields": {"access_token": "MY-TOKEN"}},
            ["fields.access_token: `MY-TOKEN` is no name of a variable; use letters, digits and `_`"],
        ),
        ({"fields": {}}, ["fields: `access_token` is missing, so there would be no token in the file"]),
        (
            {"fields": {"access_token": "a", "expire_at": "e"}},
            ["fields.expire_at: there is no such value; did you mean `expires_at`?"],
        ),
        (
            {"fields": {"access_token": JsonField(name="a", type="iso8601")}},
            ["fields.access_token.type: `iso8601` is not possible; one of string"],
        ),
        (
            {"fields": {"access_token": "a", "scope": "a", "token_type": ""}},
            [
                "fields.scope: the name `a` is already that of `access_token`",
                "fields.token_type: the name is empty",
            ],
        ),
        (
            {"adopt": True},
            ["adopt: needs `include_refresh_token: true`, or the application has nothing to refresh with"],
        ),
        (
            {"format": "raw", "adopt": True, "include_refresh_token": True},
            [
                "include_refresh_token: `raw` as configured has no place for a refresh token",
                "adopt: `raw` as configured has no expiry, and only a later one is adopted",
            ],
        ),
        ({"format": "gmail-sdk", "adopt": True, "include_refresh_token": True}, []),
        ({"fields": {"access_token": "a", "expires_at": "e", "refresh_token": "r"}}, []),
        ({}, []),
    ],
)
def test_every_contradiction_is_named(options: dict[str, Any], found: list[str]) -> None:
    """All problems are reported at once, and making the format fails with the same words."""
    assert formats.problems(target(**options)) == found
    if found:
        with pytest.raises(ConfigError) as refused:
            formats.for_target(target(**options))
        assert refused.value.problems == found


def test_the_configuration_knows_the_same_formats() -> None:
    """The names in the schema and those that exist can't drift apart."""
    assert get_args(OutputFormat) == formats.NAMES
    assert get_args(SeedFormat) == formats.SEED_NAMES
