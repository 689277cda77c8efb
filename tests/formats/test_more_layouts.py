"""`dotenv`, `netrc` and `template`, and the document of S6: written by us, read by what others use."""

from __future__ import annotations

import json
import netrc
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dotenv
import pytest

from sidecar import formats
from sidecar.config.settings import JsonField, OutputTarget
from sidecar.errors import FormatError
from sidecar.ports import Publication
from sidecar.testing import Simulator
from sidecar.tokens import ExpirySource

Make = Callable[..., Publication]

ACCESS, REFRESH = "sim-at-0123456789abcdef", "sim-rt-0123456789abcdef"


def written(publication: Publication, *, refresh: bool = False, **options: Any) -> bytes:
    """Lay a publication out as an output with these options does."""
    target = OutputTarget(file=Path("/run/tokens/t"), include_refresh_token=refresh, **options)
    return formats.for_target(target).encode(publication, include_refresh_token=refresh)


# dotenv


def test_dotenv_by_default(publication: Make) -> None:
    """Bare values where that is safe; what has spaces is quoted."""
    assert written(publication(), refresh=True, format="dotenv").decode() == (
        "ACCESS_TOKEN=sim-at-0123456789abcdef\n"
        "TOKEN_TYPE=Bearer\n"
        "EXPIRES_AT=1700003600\n"
        "SCOPE='gmail.send gmail.readonly'\n"
        "REFRESH_TOKEN=sim-rt-0123456789abcdef\n"
    )


@pytest.mark.parametrize("value", ["sim-at-" + "a~b+c/d=e.f", 'sim-at-"`id`#!', "sim-at-{}*?;&|<>()"])
def test_readers_of_dotenv_agree(value: str, tmp_path: Path, publication: Make) -> None:
    """A shell and python-dotenv find the very same token, and run nothing of it."""
    path = tmp_path / "token.env"
    path.write_bytes(written(publication(value=value), format="dotenv"))
    assert dotenv.dotenv_values(path)["ACCESS_TOKEN"] == value
    script = f'. {path}; printf %s "$ACCESS_TOKEN"'
    assert (
        subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, text=True).stdout == value
    )
    assert dotenv.dotenv_values(path)["SCOPE"] == "gmail.send gmail.readonly"


@pytest.mark.parametrize(
    "value", ["sim-at-it's", "sim-at-back\\slash", "sim-at-${HOME}", "sim-at-two\nlines", "sim-at-é"]
)
def test_dotenv_refuses_what_its_readers_disagree_about(value: str, publication: Make) -> None:
    """No token is written that a reader would understand as another one."""
    with pytest.raises(FormatError, match="the value of ACCESS_TOKEN has characters") as refused:
        written(publication(value=value), format="dotenv")
    assert "sim-at-" not in str(refused.value)


def test_dotenv_with_names_of_its_own(publication: Make) -> None:
    """`fields` selects, renames and types, as in `json`; an unknown value is empty."""
    fields = {"access_token": "GMAIL_TOKEN", "expires_at": JsonField(name="GMAIL_UNTIL", type="iso8601")}
    assert written(publication(), format="dotenv", fields=fields).decode() == (
        "GMAIL_TOKEN=sim-at-0123456789abcdef\nGMAIL_UNTIL=2023-11-14T23:13:20Z\n"
    )
    never = publication(expires_at=None, source=ExpirySource.NEVER)
    assert written(never, format="dotenv", fields=fields).decode().endswith("GMAIL_UNTIL=\n")


@pytest.mark.parametrize(
    "text",
    [
        f"REFRESH_TOKEN={REFRESH}",
        f"# comment\n\nexport REFRESH_TOKEN='{REFRESH}'\nOTHER=\n",
        f'GMAIL_REFRESH_TOKEN="{REFRESH}"\nGMAIL_CLIENT_ID=x\n',
        f"client_id=x\nrefresh_token={REFRESH}\r\n",
    ],
)
def test_a_dotenv_seed_is_recognised(text: str) -> None:
    """Whatever the variable's prefix, quotes and neighbours."""
    assert formats.recognise(text.encode()) == "dotenv"
    assert formats.seed_contents(text.encode()).refresh_token == REFRESH


def test_a_seed_may_name_its_members() -> None:
    """`fields` of a seed say what our values are called there."""
    found = formats.seed_contents(f'{{"rt": "{REFRESH}"}}'.encode(), "json", {"refresh_token": "rt"})
    assert found.refresh_token == REFRESH
    text = f"ONE_REFRESH_TOKEN=x\nTWO_REFRESH_TOKEN={REFRESH}".encode()
    assert formats.seed_contents(text, None, {"refresh_token": "TWO_REFRESH_TOKEN"}).refresh_token == REFRESH


# netrc


def test_netrc_is_read_by_pythons_own_module(tmp_path: Path, publication: Make) -> None:
    """The standard library, and with it pip and requests, find login and token."""
    path = tmp_path / "netrc"
    path.write_bytes(written(publication(), format="netrc", machine="git.example", login="x-access-token"))
    assert netrc.netrc(path).authenticators("git.example") == ("x-access-token", "", ACCESS)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_netrc_is_read_by_curl(tmp_path: Path, publication: Make) -> None:
    """Curl sends what it finds there, over real HTTP."""
    path = tmp_path / "netrc"
    with Simulator().serve() as url:
        path.write_bytes(written(publication(), format="netrc", machine="127.0.0.1"))
        command = ["curl", "--silent", "--verbose", "--netrc-file", str(path), f"{url}/resource"]
        said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30).stderr
    assert "Server auth using Basic with user 'oauth2'" in said


@pytest.mark.parametrize("value", ['sim-at-"quoted"', "sim-at-#hash", "sim-at-back\\slash"])
def test_netrc_refuses_what_its_readers_disagree_about(value: str, publication: Make) -> None:
    """No token is written that a reader would understand as another one."""
    with pytest.raises(FormatError, match="on which readers of netrc disagree"):
        written(publication(value=value), format="netrc", machine="a")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("machine b login c password d", "no entry for the machine"),
        ("machine a login c password", "not a netrc file"),
        ("password d", "before any `machine`"),
        ("machine a password d password e", "two passwords"),
        ("# machine a password d", "not a netrc file"),
        ("machine a password é", "not a netrc file"),
    ],
)
def test_a_netrc_that_is_none_is_refused(text: str, why: str) -> None:
    """Half a file, or another machine's, gives no token."""
    layout = formats.for_target(OutputTarget(file=Path("/t"), format="netrc", machine="a"))
    with pytest.raises(FormatError, match=why):
        layout.decode(text.encode())


# template


def test_a_template_writes_what_an_application_wants(publication: Make) -> None:
    """Every value of `fields` is there, with filters for times, JSON and Basic authentication."""
    source = (
        "token = {{ access_token | tojson }}\n"
        "until = {{ expires_at | int }} {{ expires_at | iso8601 }} {{ expires_at | iso8601_naive }}\n"
        "basic = {{ ('x-access-token:' ~ access_token) | b64encode }}\n"
        "{% if refresh_token %}refresh{% endif %}"
    )
    assert written(publication(), format="template", template=source).decode() == (
        'token = "sim-at-0123456789abcdef"\n'
        "until = 1700003600 2023-11-14T23:13:20Z 2023-11-14T23:13:20.250000\n"
        "basic = eC1hY2Nlc3MtdG9rZW46c2ltLWF0LTAxMjM0NTY3ODlhYmNkZWY=\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ access_token.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ access_token.format(1).__init__.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 10**6 }}",
        "{{ lipsum }}",
        "{% include '/etc/passwd' %}",
        "{{ 1/0 }}",
        "{{ expires_at.missing }}",
    ],
)
def test_a_template_can_do_nothing_else(source: str) -> None:
    """The sandbox keeps it from Python, from files, from memory; the mistake is told when the file is checked."""
    found = formats.problems(OutputTarget(file=Path("/t"), format="template", template=source))
    assert len(found) == 1
    assert found[0].startswith("template: ")


def test_a_template_that_fails_on_a_value_does_not_show_it(publication: Make) -> None:
    """What can be rendered for one token and not for another quotes neither."""
    source = "{{ expires_at | iso8601 }}{{ access_token }}"
    never = publication(expires_at=None, source=ExpirySource.NEVER)
    with pytest.raises(FormatError, match="can't be rendered: TypeError") as refused:
        written(never, format="template", template=source)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


def test_a_template_carries_the_refresh_token_only_when_told_to(publication: Make) -> None:
    """It is an empty string otherwise, as in `json`."""
    source = "[{{ refresh_token }}]"
    assert written(publication(), format="template", template=source) == b"[]"
    assert written(publication(), refresh=True, format="template", template=source) == f"[{REFRESH}]".encode()


# S6's document


def test_the_document_of_s6_is_written_and_read(publication: Make) -> None:
    """ISO times in UTC without an offset, to the microsecond, under the names that the application has for them."""
    fields: dict[str, str | JsonField] = {
        "access_token": "access_token",
        "refresh_token": "refresh_token",
        "expires_at": JsonField(name="expires_at", type="iso8601_naive"),
        "expires_in": "expires_in",
        "scope": "scope",
        "token_type": "token_type",
        "issued_at": JsonField(name="created_at", type="iso8601_naive"),
    }
    data = written(publication(), refresh=True, fields=fields)
    assert json.loads(data) == {
        "access_token": ACCESS,
        "refresh_token": REFRESH,
        "expires_at": "2023-11-14T23:13:20.250000",
        "expires_in": 3600,
        "scope": "gmail.send gmail.readonly",
        "token_type": "Bearer",
        "created_at": "2023-11-14T22:13:20.250000",
    }
    found = formats.seed_contents(data)
    access, refresh = found.access(written_at=0, by_receiver=False), found.refresh(written_at=0)
    assert access is not None
    assert refresh is not None
    assert (access.value, access.issued_at, access.expires_at) == (ACCESS, 1_700_000_000.25, 1_700_003_600.25)
    assert refresh.value == REFRESH


def test_json_in_milliseconds(publication: Make) -> None:
    """JavaScript's times are read back as what they are."""
    fields: dict[str, str | JsonField] = {
        "access_token": "accessToken",
        "expires_at": JsonField(name="expiresAt", type="milliseconds"),
    }
    data = written(publication(), fields=fields)
    assert json.loads(data)["expiresAt"] == 1_700_003_600_250
    layout = formats.for_target(OutputTarget(file=Path("/t"), fields=fields))
    assert layout.decode(data).expires_at == 1_700_003_600.25
