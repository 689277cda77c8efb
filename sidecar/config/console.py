"""What can't be right about the console: above all, a page that is open to people whom nobody has signed in."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from sidecar.config.context import Context
from sidecar.config.contradictions import is_loopback
from sidecar.config.settings import ConsoleProxy, ConsoleSettings, Settings

_NEVER_FROM_A_PROXY = {
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "origin",
}


def check(settings: Settings, context: Context) -> None:
    """Report every contradiction."""
    console = settings.console
    _listening(console, context)
    _url(console, context)
    if console.proxy is not None:
        _proxy(console.proxy, context)
        _signed_in_by_a_proxy(console, console.proxy, context)
    else:
        _signed_in_by_a_link(console, context)
    if not console.session:
        context.error(("console", "session"), "is 0; it must be longer")
    if context.given(("console",)) and settings.store.scheme == "memory":
        text = (
            "can't read a store that is in the daemon's memory; write `store: sqlite:///PATH`, or remove it"
        )
        context.error(("console",), text)


def _listening(console: ConsoleSettings, context: Context) -> None:
    place = ("console", "host")
    if not re.fullmatch(r"[A-Za-z0-9.:%_-]+", console.host) or re.fullmatch(r"[^:]+:[0-9]+", console.host):
        context.error(
            place, "is no host name or address; write it like 127.0.0.1 or ::, and the port under `port`"
        )
    elif console.proxy is None and not is_loopback(console.host):
        text = (
            f"would let everybody who reaches {console.host} see the page; name the proxy that signs people in under "
            "`console.proxy`, or listen on 127.0.0.1"
        )
        context.error(place, text)


def _url(console: ConsoleSettings, context: Context) -> None:
    place = ("console", "url")
    if console.url is None:
        return
    try:
        parts = urlsplit(console.url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if (
        host is None
        or parts.scheme not in {"http", "https"}
        or not re.fullmatch(r"[\x21-\x7E]+", console.url)
    ):
        context.error(place, "is no URL; write it like https://tokens.example.com")
    elif parts.username is not None or parts.path or parts.query or parts.fragment:
        text = "must be no more than scheme, host and port; give the console a host name of its own"
        context.error(place, text)
    elif parts.scheme == "http" and not is_loopback(host):
        context.error(place, f"would send sessions and codes to {host} in clear; write https")
    elif console.proxy is None and not is_loopback(host):
        text = "leads elsewhere, and nobody signs people in there; name who does under `console.proxy`, or remove it"
        context.error(place, text)


def _proxy(proxy: ConsoleProxy, context: Context) -> None:
    place = ("console", "proxy")
    for index, written in enumerate(proxy.addresses):
        where = (*place, "addresses", index)
        try:
            network = ipaddress.ip_network(written)
        except ValueError:
            text = "is no address or network; write it like 10.0.0.7 or 10.1.0.0/16, with no bits of the host set"
            context.error(where, text)
            continue
        if network.prefixlen == 0:
            context.error(
                where, "is everybody, who could say that they are anybody; name the proxy's own address"
            )
    for key in ("user_header", "groups_header"):
        header = getattr(proxy, key)
        if header is None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9-]+", header):
            context.error((*place, key), "is no header's name; write it like X-Forwarded-Email")
        elif header.lower() in _NEVER_FROM_A_PROXY:
            context.error(
                (*place, key), "says something else in every request; name the header that the proxy sets"
            )
    if proxy.groups_header is not None and proxy.groups_header.lower() == proxy.user_header.lower():
        context.error((*place, "groups_header"), "is `user_header` too; name the header that has the groups")


def _signed_in_by_a_proxy(console: ConsoleSettings, proxy: ConsoleProxy, context: Context) -> None:
    operators = console.operators
    if console.url is None:
        text = "is missing; name where browsers reach the proxy, such as https://tokens.example.com"
        context.missing(("console", "url"), text)
    if not operators.users and not operators.groups:
        text = (
            "is missing; with a proxy it has to say who may renew tokens: `users: [alice@example.com]`, `groups`, or "
            '`users: ["*"]` for everybody whom the proxy lets through'
        )
        context.missing(("console", "operators"), text)
    if operators.groups and proxy.groups_header is None:
        text = "can't be told without a header that names them; set `console.proxy.groups_header`"
        context.error(("console", "operators", "groups"), text)
    for key in ("users", "groups"):
        for index, name in enumerate(getattr(operators, key)):
            if name.strip() != name or not name or not name.isprintable():
                context.error(("console", "operators", key, index), "is no name; write it as the proxy does")


def _signed_in_by_a_link(console: ConsoleSettings, context: Context) -> None:
    if console.operators.users or console.operators.groups:
        text = "needs a proxy that says who people are; add `console.proxy`, or remove it"
        context.error(("console", "operators"), text)
    if console.secret_file is not None:
        text = (
            "is of no use without `console.proxy`: a new start ends all sessions of one-time links; remove it"
        )
        context.error(("console", "secret_file"), text)
