from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

import pytest

from sidecar.config.settings import Duration
from sidecar.profile import InDoubt

if TYPE_CHECKING:
    from tests.config.conftest import Place

GMAIL = """\
tokens:
  gmail:
    provider: google
    client: {id: me}
"""


def gmail(text: str) -> str:
    """Put keys into a token that is fine without them; they begin in line 5, column 5."""
    return GMAIL + indent(text, "    ")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("outptus: []", "5:5: tokens.gmail.outptus: unknown key; did you mean `outputs`?"),
        ("seed: {fil: x}", "5:12: tokens.gmail.seed.fil: unknown key; did you mean `file`?"),
        (
            "seed: {}",
            "5:11: tokens.gmail.seed: is incomplete; add `file` or `kubernetes_secret`",
        ),
        ("seed: 12", "5:11: tokens.gmail.seed: is a number where text is needed; put it in quotes"),
        ("seed: [x]", "5:11: tokens.gmail.seed: is a list where a mapping or text is needed"),
        ("seed: ''", "5:11: tokens.gmail.seed: is empty; give it a value"),
        ("outputs: {file: x}", "5:14: tokens.gmail.outputs: is a mapping where a list is needed"),
        (
            "outputs: [{file: no}]",
            '5:22: tokens.gmail.outputs[0].file: is the boolean no where text is needed; … file: "no"',
        ),
        (
            "audience: 0x1F",
            '5:15: tokens.gmail.audience: is the number 0x1F where text is needed; … audience: "0x1F"',
        ),
        ("scopes: a b", "5:13: tokens.gmail.scopes: is text where a list is needed"),
        ("required: maybe", "5:15: tokens.gmail.required: is text where true or false is needed"),
        ("required:", "5:14: tokens.gmail.required: has no value; give it true or false, or remove the key"),
        (
            "grant: password",
            (
                '5:12: tokens.gmail.grant: is "password"; it must be one of client_credentials, '
                "github_installation, jwt_bearer, living_token, refresh_token, token_exchange"
            ),
        ),
        ("on_dead: restrat", '5:14: tokens.gmail.on_dead: is "restrat"; did you mean restart?'),
        ("refresh_at: 1", "5:17: tokens.gmail.refresh_at: is the number 1; it must be below 1"),
        ("refresh_at: 0.0", "5:17: tokens.gmail.refresh_at: is the number 0.0; it must be above 0"),
        (
            "lease: 10 minutes",
            '5:12: tokens.gmail.lease: is "10 minutes", which is no duration up to a',
        ),
        (
            "lease: -1",
            "5:12: tokens.gmail.lease: is the number -1, which is no duration up to a",
        ),
        (
            "lease: 9999999d",
            '5:12: tokens.gmail.lease: is "9999999d", which is no duration up to a',
        ),
        ("lease: on", "5:12: tokens.gmail.lease: is a boolean where a duration such as 10m is needed"),
        (
            "outputs: [{file: x, mode: 640}]",
            '5:31: tokens.gmail.outputs[0].mode: is the number 640; … mode: "0640"',
        ),
        (
            "outputs: [{file: x, mode: 0600}]",
            '5:31: tokens.gmail.outputs[0].mode: is the number 0600; … mode: "0600"',
        ),
        (
            "outputs: [{file: x, mode: '4755'}]",
            '5:31: tokens.gmail.outputs[0].mode: is "4755"; … mode: "0640"',
        ),
        (
            "outputs: [{file: x, mode: rw}]",
            '5:31: tokens.gmail.outputs[0].mode: is "rw"; … mode: "0640"',
        ),
        (
            "outputs: [{file: x, format: gmail_sdk}]",
            '5:33: tokens.gmail.outputs[0].format: is "gmail_sdk"; did you mean gmail-sdk?',
        ),
        ("outputs: [12]", "5:15: tokens.gmail.outputs[0]: is a number where a mapping is needed"),
        (
            "outputs: [{file: x, fields: {a: {nam: b}}}]",
            "5:38: tokens.gmail.outputs[0].fields.a.nam: unknown key; did you mean `name`?",
        ),
        (
            "outputs: [{kubernetes_secret: {name: Big, key: k}}]",
            (
                "5:42: tokens.gmail.outputs[0].kubernetes_secret.name: is no name; use up to 253 lower case letters, "
                "digits, dashes and dots, as Kubernetes does"
            ),
        ),
        (
            "outputs: [{kubernetes_secret: {name: n, key: a/b}}]",
            (
                "5:50: tokens.gmail.outputs[0].kubernetes_secret.key: is no name; use up to 253 letters, digits, "
                "dashes, dots and underscores, as Secrets do for their keys"
            ),
        ),
        (
            "outputs: [{kubernetes_secret: {name: n}}]",
            "5:16: tokens.gmail.outputs[0].kubernetes_secret.key: is missing",
        ),
        ("defaults: 1", "5:5: tokens.gmail.defaults: unknown key; "),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(place: Place, keys: str, problem: str) -> None:
    """Place, reason and way out are on one line."""
    problems = place.problems(gmail(keys))
    assert len(problems) == 1
    begin, _, end = problem.partition("…")
    assert problems[0].startswith(f"config.yaml:{begin}")
    assert problems[0].endswith(end)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server: {port: 70000}", "1:16: server.port: is the number 70000; it must be at most 65535"),
        ("server: {port: '70000'}", '1:16: server.port: is "70000"; it must be at most 65535'),
        ("server: {port: 1.5}", "1:16: server.port: is a number where a whole number is needed"),
        ("server: {host: ''}", "1:16: server.host: is empty; give it a value"),
        (
            "namespace: a b",
            "1:12: namespace: is no name; use up to 63 letters, digits, dots, dashes and underscores",
        ),
        ("log: {level: loud}", '1:14: log.level: is "loud"; it must be one of debug, error, info, warning'),
        (
            "providers: {x: {errors: [{outcome: dead, stauts: 4}]}}",
            "1:42: providers.x.errors[0].stauts: unknown key; did you mean `status`?",
        ),
        ("namspace: 1", "1:1: namspace: unknown key; did you mean `namespace`?"),
        (
            "zzz: 1",
            "1:1: zzz: unknown key; known here: allow_insecure_http, allow_volatile_store, audit, console, control, ",
        ),
        ("state_dir: {}", "1:12: state_dir: is a mapping where text is needed"),
        ("store: {ulr: x}", "1:9: store.ulr: unknown key; did you mean `url`?"),
    ],
)
def test_the_rest_of_the_file_is_held_to_the_same(place: Place, text: str, problem: str) -> None:
    """Keys outside of tokens are checked like those of tokens."""
    problems = place.problems(f"{text}\n{GMAIL}")
    assert len(problems) == 1
    assert problems[0].startswith(f"config.yaml:{problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("namespace: x", "1:1: tokens: is missing"),
        ("tokens: {}", "1:9: tokens: is empty; give it a value, at least one"),
        ("tokens:", "1:8: tokens: has no value; give it a mapping, or remove the key"),
        (
            "tokens: {'a b': {}}",
            "1:10: tokens.'a b': is no name: use up to 63 letters, digits, dots, dashes, underscores; ",
        ),
        ("tokens: {a: 12}", "1:13: tokens.a: is a number where a mapping is needed"),
    ],
)
def test_there_must_be_tokens(place: Place, text: str, problem: str) -> None:
    """A configuration without a token, or with what is none, is refused."""
    problems = place.problems(text)
    assert len(problems) == 1
    assert problems[0].startswith(f"config.yaml:{problem}")


def test_text_is_taken_for_numbers_and_booleans_where_they_are_wanted(place: Place) -> None:
    """A variable's value is text, and works for every type that a key may want."""
    text = """\
        server: {port: "${PORT}"}
        tokens:
          gmail:
            provider: google
            client: {id: "${ID}"}
            refresh_at: ${AT}
            required: ${REQUIRED}
            lease: ${LEASE}
            outputs: [{file: out, mode: "${MODE}", group: "${GROUP}"}]
        """
    env = {
        "PORT": "1234",
        "ID": "007",
        "AT": "0.5",
        "REQUIRED": "false",
        "LEASE": "30",
        "MODE": "600",
        "GROUP": "12",
    }
    settings = place.load(text, disk=False, **env).settings
    token = settings.tokens["gmail"]
    assert (settings.server.port, token.client.id, token.refresh_at) == (1234, "007", 0.5)
    assert not token.required
    assert token.lease == Duration(30)
    assert (token.outputs[0].mode, token.outputs[0].group) == (0o600, 12)


def test_text_that_stands_for_numbers_is_no_misfit_when_something_else_is_wrong(place: Place) -> None:
    """What msgspec takes is not reported once the schema is asked about another mistake."""
    text = "server: {port: '1234'}\nallow_insecure_http: 'TRUE'\nallow_volatile_store: 1\nzzz: 1\n" + GMAIL
    assert len(place.problems(text)) == 1


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("250ms", 0.25), ("2", 2), ("1.5m", 90)],
)
def test_durations_have_units(place: Place, written: str, seconds: float) -> None:
    """A duration is numbers with units, or a number of seconds."""
    assert place.load(gmail(f"min_validity: {written}")).settings.tokens["gmail"].min_validity == seconds


def test_a_secret_in_the_wrong_place_is_not_shown(place: Place) -> None:
    """Whatever is wrong with a secret, or put where none belongs, it stays out of the message."""
    secret = "sim-cs-0123456789abcdefgh"
    texts = [
        gmail(f"grant: {secret}"),
        gmail(f"lease: {secret}"),
        gmail(f"{secret}: 1"),
        gmail(f"seed: {secret}"),
        gmail(f"outputs: [{secret}]"),
        gmail("outputs: [{file: x, mode: '" + secret + "'}]"),
        gmail("on_dead: ${S}"),
        f"tokens: {{a: {{provider: google, client: {{secret: {{{secret}: 1}}}}}}}}",
        f"tokens: {{a: {{provider: google, client: {{id: x, {secret}}}}}}}",
        f"store: postgresql://me:{secret}@db\n{GMAIL}",
        f"server: {{host: {secret}/}}\n{GMAIL}",
    ]
    for text in texts:
        for problem in place.problems(text, disk=True, S=secret):
            assert secret not in problem


def test_a_number_for_a_secret_is_not_shown(place: Place) -> None:
    """A secret that YAML took for a number is refused without being repeated."""
    problems = place.problems("tokens: {a: {provider: google, client: {id: x, secret: 1234567}}}")
    assert problems == [
        "config.yaml:1:56: tokens.a.client.secret: is a number where text is needed; put it in quotes"
    ]


@pytest.mark.parametrize(
    ("changes", "in_doubt"),
    [
        ("rotation: always", InDoubt.NO_REPLAY),
        ("rotation: always, in_doubt: replay_ok", InDoubt.REPLAY_OK),
        ("rotation: never", InDoubt.REPLAY_OK),
        ("refresh_ttl: 7d", InDoubt.REPLAY_OK),
    ],
)
def test_what_may_be_sent_twice_follows_from_the_rotation(
    place: Place, changes: str, in_doubt: InDoubt
) -> None:
    """Google's `replay_ok` was said of refresh tokens that stay: who says that they rotate has to say it again."""
    text = f"""\
        providers: {{google: {{{changes}}}}}
        tokens: {{gmail: {{provider: google, client: {{file: c.json}}, outputs: [{{file: o}}]}}}}
        allow_volatile_store: true
        """
    assert place.load(text).settings.profiles["gmail"].in_doubt is in_doubt
