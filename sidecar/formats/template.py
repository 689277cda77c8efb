"""`template`: whatever text an application wants, written as a Jinja2 template in the configuration."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sidecar.errors import ConfigError, FormatError
from sidecar.formats import fields as all_fields
from sidecar.formats.values import iso8601, iso8601_naive
from sidecar.ports import Publication
from sidecar.tokens import AccessToken, RefreshToken

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from sidecar.formats.contents import Contents

LIMIT = 256 * 1024
"""Bytes of a rendered file; what is longer is a loop that went wrong."""


class Template:
    """Sandboxed and strict: it sees the values of `fields` and nothing else; a name that isn't there is an error."""

    name = "template"
    carries_expiry = False
    carries_refresh = True

    def __init__(self, source: str = "") -> None:
        """Compile nothing yet: an output that is never written needs no Jinja2."""
        self._source = source

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        values = all_fields.values(publication, include_refresh_token=include_refresh_token)
        problem, written = _rendered(self._source, values)
        if problem:
            # Raised out here, so that it is not chained to an error whose frames hold the values.
            raise FormatError(problem)
        return written

    def decode(self, data: bytes) -> Contents:  # noqa: ARG002
        """See `Format.decode`. Only what we wrote is recognised, by its digest; anything else is repaired."""
        raise FormatError("a template can't be read back, and this is not what was written")


def problem(source: str) -> str:
    """Say what is wrong with a template, by rendering it for a token that has every value; empty: nothing is."""
    try:
        found, _ = _rendered(source, all_fields.values(_EXAMPLE, include_refresh_token=True))
    except ConfigError as error:
        return str(error)
    return found


_EXAMPLE = Publication(
    token="example",
    access=AccessToken("example", 1.7e9, 1.7e9 + 3600, 3600.0, scope="example"),
    refresh=RefreshToken("example", 1.7e9, 1.8e9),
    lineage="",
    generation=1,
    client_id="example",
    token_url="https://example",
)


def _rendered(source: str, values: dict[str, all_fields.Value]) -> tuple[str, bytes]:
    """Return what is wrong, or the text."""
    environment = _environment()
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        written = environment.from_string(source).render(values).encode()
    except TemplateSyntaxError as error:
        return f"line {error.lineno} of the template: {error.message}", b""
    except TemplateError as error:
        # An undefined name, a forbidden attribute: Jinja2 names what the template's author wrote, never a value.
        return f"the template can't be rendered: {error.message}", b""
    except Exception as error:  # noqa: BLE001 - whatever a template does with a value; its text may quote that value
        return f"the template can't be rendered: {type(error).__name__}", b""
    if len(written) > LIMIT:
        return f"the template gives more than {LIMIT // 1024} KiB", b""
    return "", written


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    try:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ConfigError("templates need Jinja2; install token-sidecar[console], which has it") from None
    # No autoescape: what is written is a configuration file as a rule, and no web page. `tojson` quotes.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.globals.clear()
    environment.filters |= {"iso8601": iso8601, "iso8601_naive": iso8601_naive, "b64encode": _b64encode}
    return environment


def _b64encode(text: Any) -> str:
    return base64.b64encode(str(text).encode()).decode("ascii")
