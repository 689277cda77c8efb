"""The console's pages as HTML: every value is escaped, and nothing but the style sheet is loaded."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import jinja2
import msgspec

if TYPE_CHECKING:
    from sidecar.console.views import Accounts, Overview, Result, TokenPage


class Frame(msgspec.Struct, frozen=True):
    """What is around every page of somebody who is signed in."""

    user: str
    operator: bool
    """Whether they see everybody's tokens, and not their own accounts alone."""
    csrf: str
    """Goes into every form."""
    sign_out: bool = False
    """Whether the console can end the session; a proxy's sessions are the proxy's to end."""
    enrolment: bool = False
    """Whether there are accounts that users connect by themselves."""

    def __repr__(self) -> str:
        """Hide what forms are proven with."""
        return f"Frame({self.user!r}, operator={self.operator})"


def overview(frame: Frame, view: Overview) -> str:
    """Write the page of all tokens."""
    return _rendered("overview.html", frame=frame, view=view)


def token(frame: Frame, view: TokenPage) -> str:
    """Write one token's page."""
    return _rendered("token.html", frame=frame, view=view)


def accounts(frame: Frame, view: Accounts) -> str:
    """Write the page of a user's own accounts."""
    return _rendered("accounts.html", frame=frame, view=view)


def leading(frame: Frame, *, token: str, provider: str, url: str) -> str:
    """Write the page that leads to the provider: at once, and with a link."""
    return _rendered("leading.html", frame=frame, token=token, provider=provider, url=url)


def result(frame: Frame, view: Result) -> str:
    """Write what came of an action; while it is under way, the page loads itself again."""
    title = _TITLES[view.action][0 if not view.done else 1 if view.worked else 2]
    return _rendered("result.html", frame=frame, view=view, title=title)


def message(title: str, text: str) -> str:
    """Write an error or a refusal; nobody need be signed in."""
    return _rendered("message.html", frame=None, title=title, text=text)


def sign_in() -> str:
    """Write how to get in; who opened a link that is of no use any more is sent here, too."""
    return _rendered("sign_in.html", frame=None)


STATIC = {"console.css": "text/css", "icon.svg": "image/svg+xml"}
"""What pages load beside themselves, and its media type."""


@cache
def static(name: str) -> bytes:
    """Return one of `STATIC`."""
    return resources.files(__package__).joinpath("static", name).read_bytes()


_TITLES = {
    "consent": ("Storing the new grant", "Authorized", "Not authorized"),
    "refresh": ("Refreshing", "Refreshed", "Not refreshed"),
    "revoke": ("Revoking", "Revoked", "Not revoked"),
    "disconnect": ("Disconnecting", "Disconnected", "Not disconnected"),
}
"""While an action is under way, when it worked, and when it did not."""


def _rendered(name: str, **members: object) -> str:
    return _environment().get_template(name).render(**members)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
