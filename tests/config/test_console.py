"""What is said of a `console` that would be open to people whom nobody has signed in, each with its line."""

from __future__ import annotations

import pytest

from tests.config.conftest import Place

TOKENS = """
tokens:
  gmail: {provider: google, client: {id: app, secret_file: secret}, outputs: [{file: out/gmail.json}]}
"""
PROXY = "url: https://tokens.example.com, operators: {users: [alice@example.com]}, proxy"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{host: 0.0.0.0}", "console.host: would let everybody who reaches 0.0.0.0 see the page"),
        ('{host: "::"}', "console.host: would let everybody who reaches :: see the page"),
        ("{host: tokens.example.com}", "console.host: would let everybody"),
        ("{host: 127.0.0.1:80}", "console.host: is no host name or address"),
        ("{port: 70000}", "console.port"),
        ("{url: tokens.example.com}", "console.url: is no URL"),
        (
            "{url: http://tokens.example.com}",
            "console.url: would send sessions and codes to tokens.example.com in clear",
        ),
        (
            "{url: https://tokens.example.com/console}",
            "console.url: must be no more than scheme, host and port",
        ),
        ("{url: https://a:b@tokens.example.com}", "console.url: must be no more than scheme, host and port"),
        (
            "{url: https://tokens.example.com}",
            "console.url: leads elsewhere, and nobody signs people in there",
        ),
        ("{proxy: {}}", "console.proxy"),
        ("{proxy: {addresses: []}}", "console.proxy.addresses"),
        (f"{{{PROXY}: {{addresses: [0.0.0.0/0]}}}}", "console.proxy.addresses[0]: is everybody"),
        (f'{{{PROXY}: {{addresses: [10.0.0.1, "::/0"]}}}}', "console.proxy.addresses[1]: is everybody"),
        (f"{{{PROXY}: {{addresses: [10.0.0.1/8]}}}}", "console.proxy.addresses[0]: is no address or network"),
        (f"{{{PROXY}: {{addresses: [proxy]}}}}", "console.proxy.addresses[0]: is no address or network"),
        (
            f"{{{PROXY}: {{addresses: [10.0.0.1], user_header: Cookie}}}}",
            "console.proxy.user_header: says something else in every request",
        ),
        (
            f'{{{PROXY}: {{addresses: [10.0.0.1], user_header: "X User"}}}}',
            "console.proxy.user_header: is no header's name",
        ),
        (
            f"{{{PROXY}: {{addresses: [10.0.0.1], groups_header: x-forwarded-email}}}}",
            "console.proxy.groups_header: is `user_header` too",
        ),
        (
            "{url: https://t.example.com, proxy: {addresses: [10.0.0.1]}}",
            "console.operators: is missing; with a proxy it has to say who may renew tokens",
        ),
        (
            '{operators: {users: ["*"]}, proxy: {addresses: [10.0.0.1]}}',
            "console.url: is missing; name where browsers reach the proxy",
        ),
        (
            "{url: https://t.example.com, operators: {groups: [ops]}, proxy: {addresses: [10.0.0.1]}}",
            "console.operators.groups: can't be told without a header that names them",
        ),
        (
            '{url: https://t.example.com, operators: {users: [""]}, proxy: {addresses: [10.0.0.1]}}',
            "console.operators.users[0]: is no name",
        ),
        ("{operators: {users: [alice]}}", "console.operators: needs a proxy that says who people are"),
        ("{secret_file: secret}", "console.secret_file: is of no use without `console.proxy`"),
        ("{session: 0s}", "console.session: is 0"),
        ("{sesion: 8h}", "session"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(place: Place, written: str, said: str) -> None:
    """Each contradiction is one error, at the line and column of what is wrong, with the way out."""
    problems = place.problems(f"{TOKENS}console: {written}\n")

    found = [line for line in problems if said in line]
    assert len(found) == 1, problems
    assert found[0].startswith("config.yaml:4:")


def test_a_store_in_memory_is_refused(place: Place) -> None:
    """The console can't look into a daemon's memory."""
    problems = place.problems(f"{TOKENS}console: {{}}\nstore: 'memory:'\nallow_volatile_store: true\n")
    assert ["console: can't read a store" in line for line in problems] == [True]


def test_a_console_behind_a_proxy_may_listen_anywhere(place: Place) -> None:
    """With a proxy, operators and an address for browsers any host is good; a final slash is nothing."""
    console = place.load(
        f"""{TOKENS}
console:
  host: "::"
  url: https://tokens.example.com/
  session: 30m
  proxy: {{addresses: [10.1.0.0/16, "fd00::/8"], groups_header: X-Forwarded-Groups}}
  operators: {{users: ["*"], groups: [ops]}}
"""
    ).settings.console
    assert (console.url, console.session) == ("https://tokens.example.com", 1800.0)


def test_a_console_on_this_machine_needs_nothing(place: Place) -> None:
    """Without a word of it the console listens on the loopback."""
    assert place.load(TOKENS).settings.console.host == "127.0.0.1"


def test_a_consent_asks_for_what_all_outputs_need(place: Place) -> None:
    """A token's scopes are its own and its outputs', each once, its own first."""
    settings = place.load(
        """
        tokens:
          gmail:
            provider: google
            client: {id: app, secret_file: secret}
            scopes: [send]
            outputs: [{file: out/a.json, scopes: [read, send]}, {file: out/b.json, scopes: [labels, read]}]
        """
    ).settings
    assert settings.tokens["gmail"].scopes == ("send", "read", "labels")


def test_an_outputs_scopes_are_checked_where_they_stand(place: Place) -> None:
    """What is no scope, or is there twice, is named at the output that has it, and once."""
    problems = place.problems(
        """
        tokens:
          gmail:
            provider: google
            client: {id: app, secret_file: secret}
            outputs: [{file: out/a.json, scopes: ["a b", c, c]}]
        """
    )
    assert [line.split(": ")[1] for line in problems] == [
        "tokens.gmail.outputs[0].scopes[0]",
        "tokens.gmail.outputs[0].scopes[2]",
    ]


def test_a_process_that_publishes_nothing_needs_no_places_to_publish_to(place: Place) -> None:
    """Who neither reads seeds nor writes outputs isn't told that their directories are missing."""
    from sidecar.config import load

    place.write("secret", "sim-cs-0123456789abcdef")
    text = f"allow_volatile_store: true\n{TOKENS.replace('out/', 'nowhere/')}"
    place.file.write_text(text)
    loaded = load(place.file, env=place.env, publishes=False)
    assert loaded.settings.tokens["gmail"].outputs
    assert any("nowhere does not exist" in line for line in place.problems(text, disk=True))
