from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.config.conftest import Place

TOKEN_URL = "https://sso.example/token"


def google(keys: str) -> str:
    """Return a token of Google's, with these keys beside its client; they begin in line 5, column 5."""
    return "tokens:\n  a:\n    provider: google\n    client: {file: c.json}\n" + indent(keys, "    ")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("scopes: [x, y, x]", "5:20: tokens.a.scopes[2]: is the same scope as scopes[0]; remove one"),
        ("scopes: [x y]", "5:14: tokens.a.scopes[0]: is no single scope; write one scope per list item"),
        (
            "outputs: [{file: o, adopt: true}]",
            "5:32: tokens.a.outputs[0].adopt: needs `include_refresh_token: true`",
        ),
        (
            "outputs: [{file: o, format: raw, include_refresh_token: true}]",
            "5:61: tokens.a.outputs[0].include_refresh_token: can't be: the format raw holds the access",
        ),
        (
            "outputs: [{file: o, format: raw, fields: {}}]",
            "5:46: tokens.a.outputs[0].fields: is for `format: json` and `dotenv` only, not for raw; remove it",
        ),
        ("outputs: [{file: o, owner: -1}]", "5:32: tokens.a.outputs[0].owner: is no numeric id"),
        ("outputs: [{file: o, group: '99999999999'}]", "5:32: tokens.a.outputs[0].group: is no numeric id"),
        (
            "outputs: [{file: o}, {file: ./x/../o}]",
            "5:33: tokens.a.outputs[1].file: o is also tokens.a.outputs[0]; ",
        ),
        (
            "outputs: [{file: c.json}]",
            "5:22: tokens.a.outputs[0].file: c.json is also tokens.a.client.file; ",
        ),
        (
            "outputs: [{file: config.yaml}]",
            "5:22: tokens.a.outputs[0].file: config.yaml is also this configuration",
        ),
        ("seed: s\noutputs: [{file: s}]", "6:22: tokens.a.outputs[0].file: s is also tokens.a.seed; "),
        ("outputs: [{file: state/o}]", "5:22: tokens.a.outputs[0].file: is inside state_dir ("),
        (
            "outputs: [{file: o, kubernetes_secret: {name: n, key: k}}]",
            "5:15: tokens.a.outputs[0]: has both `file` and `kubernetes_secret`; keep one, ",
        ),
        (
            "outputs: [{format: raw}]",
            "5:15: tokens.a.outputs[0]: is incomplete; add `file` or `kubernetes_secret`",
        ),
        (
            "outputs: [{kubernetes_secret: {name: n, key: k}, mode: '0640'}]",
            "5:60: tokens.a.outputs[0].mode: is for files only; remove it",
        ),
        (
            "outputs: [{kubernetes_secret: {name: n, key: k}}, {kubernetes_secret: {name: n, key: k}}]",
            "5:75: tokens.a.outputs[1].kubernetes_secret: n/k is also tokens.a.outputs[0]; write the token to a key",
        ),
        (
            "seed: {kubernetes_secret: {name: n, key: k}}\noutputs: [{kubernetes_secret: {name: n, key: k}}]",
            "6:35: tokens.a.outputs[0].kubernetes_secret: n/k is also tokens.a.seed; write the token to a key",
        ),
        (
            "outputs: [{sql: {table: t, where: {k: v}, column: c}}]",
            "5:21: tokens.a.outputs[0].sql: is incomplete; add `url` or `url_file`",
        ),
        (
            "outputs: [{sql: {url: postgresql:///d, url_file: f, table: t, where: {k: v}, column: c}}]",
            "5:21: tokens.a.outputs[0].sql: has both `url` and `url_file`; keep one",
        ),
        (
            "seed: {sql: {url: postgresql:///d, table: a.b.c, where: {k: v}, column: c}}",
            "5:47: tokens.a.seed.sql.table: is no table's name; write TABLE or SCHEMA.TABLE, a part with a dot",
        ),
        (
            "seed: {sql: {url: postgresql:///d, table: t, where: {k: v}, column: " + "ü" * 32 + "}}",
            "5:73: tokens.a.seed.sql.column: is no name that a database has: of 1 to 63 bytes",
        ),
        (
            "seed: {sql: {url: postgresql:///d, table: t, where: {k: v}, column: k}}",
            "5:73: tokens.a.seed.sql.column: k is named twice here; each column has one use",
        ),
        (
            "outputs: [{sql: {url: postgresql:///d, table: t, where: {k: v}, column: c, updated_column: c}}]",
            "5:96: tokens.a.outputs[0].sql.updated_column: c is named twice here",
        ),
        (
            "outputs: [{sql: &s {url: postgresql:///d, table: t, where: {k: v}, column: c}}, {sql: *s}]",
            "5:21: tokens.a.outputs[1].sql: t is written where tokens.a.outputs[0] is; use another row or column",
        ),
        (
            (
                "seed: {sql: {url: 'postgresql:///d', table: t, where: {k: v}, column: c}}\n"
                "outputs: [{sql: {url: 'postgresql://me:pw@/d', table: t, where: {k: v}, column: c}}]"
            ),
            "6:21: tokens.a.outputs[0].sql: t is written where tokens.a.seed is; use another row or column",
        ),
        (
            "outputs: [{file: o}, {sql: {url_file: o, table: t, where: {k: v}, column: c}}]",
            "5:22: tokens.a.outputs[0].file: o is also tokens.a.outputs[1].sql.url_file; ",
        ),
        (
            "after_refresh: [{when: lineage}]",
            "5:21: tokens.a.after_refresh[0]: is incomplete; add `http` or `exec` or `signal` or `rollout_restart`",
        ),
        (
            "after_refresh: [{http: {url: http://app/}}]",
            "5:34: tokens.a.after_refresh[0].http.url: would send secrets to app in clear; write https, or",
        ),
        (
            "after_refresh: [{http: {url: https://me:pw@app/}}]",
            "5:34: tokens.a.after_refresh[0].http.url: must hold no user name, password or #fragment",
        ),
        (
            "after_refresh: [{http: {url: https://app/, headers: {Host: x}}}]",
            "5:64: tokens.a.after_refresh[0].http.headers.Host: is set by the daemon alone; remove it",
        ),
        (
            'after_refresh: [{http: {url: https://app/, headers: {X: "a\\nb"}}}]',
            "5:61: tokens.a.after_refresh[0].http.headers.X: is no header of one line; correct it",
        ),
        (
            "after_refresh: [{http: {url: https://app/, method: GET, body: x}}]",
            "5:67: tokens.a.after_refresh[0].http.body: can't be sent: GET has none; remove it, or write another",
        ),
        (
            "after_refresh: [{exec: {argv: [systemctl, reload, app]}}]",
            "5:36: tokens.a.after_refresh[0].exec.argv[0]: is no whole path, and no shell looks for the program;",
        ),
        (
            "after_refresh: [{exec: {argv: [/bin/true], user: 4294967296}}]",
            "5:54: tokens.a.after_refresh[0].exec.user: is no numeric id; ids go from 0 to 4294967294",
        ),
        (
            "after_refresh: [{signal: {pid_file: /run/a.pid, process: a}}]",
            "5:30: tokens.a.after_refresh[0].signal: has both `pid_file` and `process`; keep one",
        ),
        (
            "after_refresh: [{signal: {process: a}, timeout: 0s}]",
            "5:53: tokens.a.after_refresh[0].timeout: is 0;",
        ),
        (
            "after_refresh: [{signal: {process: a}}, {signal: {process: a}}]",
            "5:45: tokens.a.after_refresh[1]: is called 'signal:HUP a', as after_refresh[0] is; remove one, or give",
        ),
        (
            "after_refresh: [{http: {url: https://app/a}}, {http: {url: https://app/b}}]",
            "5:51: tokens.a.after_refresh[1]: is called 'http:POST app', as after_refresh[0] is; remove one, or give",
        ),
        (
            "after_refresh: [{rollout_restart: {deployment: d, daemonset: d}}]",
            "5:39: tokens.a.after_refresh[0].rollout_restart: has both `deployment` and `daemonset`; keep one",
        ),
        (
            "after_refresh: [{rollout_restart: {deployment: d}}, {rollout_restart: {deployment: d}, when: lineage}]",
            (
                "5:75: tokens.a.after_refresh[1].rollout_restart: restarts what after_refresh[0] restarts; remove one"
            ),
        ),
        (
            "outputs: [{file: state/store.db}]",
            "5:22: tokens.a.outputs[0].file: state/store.db is also the store; ",
        ),
        ("lease: 0s", "5:12: tokens.a.lease: is 0; it must be longer"),
        (
            "lease: 9s\nrequest_timeout: 9s",
            "6:22: tokens.a.request_timeout: must be shorter than `lease` (9s)",
        ),
        (
            "min_interval: 2h",
            "5:19: tokens.a.min_interval: must be shorter than the 3600s that tokens live here",
        ),
        (
            "grant: client_credentials\nseed: s",
            "6:11: tokens.a.seed: has no use: the grant client_credentials needs",
        ),
        (
            "grant: client_credentials\noutputs: [{file: o, include_refresh_token: true}]",
            "6:48: tokens.a.outputs[0].include_refresh_token: can't be: the grant client_credentials",
        ),
    ],
)
def test_keys_of_a_token_that_contradict_each_other(place: Place, keys: str, problem: str) -> None:
    """Each contradiction is one line, at the key that has to change."""
    problems = place.problems(google(keys))
    assert len(problems) == 1
    assert problems[0].startswith(f"config.yaml:{problem}")


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        (
            "{file: c, id: x}",
            "tokens.a.client.id: contradicts `file`, which says the same; keep one of the two",
        ),
        ("{file: c, id_file: x}", "tokens.a.client.id_file: contradicts `file`"),
        ("{file: c, secret_file: x}", "tokens.a.client.secret_file: contradicts `file`"),
        ("{file: c, secret: sim-cs-0123456789abcdef}", "tokens.a.client.secret: contradicts `file`"),
        ("{id: x, id_file: y, secret_file: z}", "tokens.a.client.id_file: contradicts `id`"),
        ("{id: x, secret: y, secret_file: z}", "tokens.a.client.secret_file: contradicts `secret`"),
        (
            "{id: x, secret: y, auth_method: none}",
            "tokens.a.client.secret: is given, but `auth_method: none` sends",
        ),
        (
            "{secret_file: y}",
            "tokens.a.client: has no client id; add `file` (Google's credentials.json), `id` or `id_f",
        ),
    ],
)
def test_keys_of_a_client_that_contradict_each_other(place: Place, client: str, problem: str) -> None:
    """A client is described once, and whole."""
    problems = place.problems(f"tokens: {{a: {{provider: google, client: {client}}}}}")
    assert len(problems) == 1
    assert problems[0].split(": ", 1)[1].startswith(problem)


def test_a_token_needs_a_provider_and_a_client(place: Place) -> None:
    """What a token can't do without is asked for at the token."""
    problems = place.problems("tokens:\n  a:\n")
    assert [line.partition(";")[0] for line in problems] == [
        "config.yaml:2:3: tokens.a.client: has no client id",
        "config.yaml:2:3: tokens.a.provider: is missing",
    ]


def test_a_public_client_cannot_use_client_credentials(place: Place) -> None:
    """The grant consists of the client's secret."""
    text = google("grant: client_credentials").replace("{file: c.json}", "{id: x, auth_method: none}")
    assert "needs a client that has a secret" in place.problems(text)[0]


def test_a_secret_that_is_missing_is_a_warning(place: Place) -> None:
    """A client without a secret may be public, but then it should say so."""
    warnings = place.warnings("tokens: {a: {provider: google, client: {id: x}, outputs: [{file: o}]}}")
    assert warnings == [
        (
            "config.yaml:1:40: tokens.a.client: has no secret for client_secret_post; "
            "add `secret_file`, or `auth_method: none` if public"
        )
    ]


@pytest.mark.parametrize(
    ("keys", "warning"),
    [
        (
            "outputs: []",
            "tokens.a.outputs: there are none, so only `token-sidecar token` hands this token out",
        ),
        ("outputs: [{file: o}]\nmin_validity: 31m", "tokens.a.min_validity: is more than half of the 3600s"),
        (
            "outputs: [{file: o}]\nlease: 30m",
            "tokens.a.lease: is half of the 3600s that tokens live here, or more",
        ),
        (
            "outputs: [{file: o}]\non_dead: report\ndead_grace: 1m",
            "tokens.a.dead_grace: has no effect with `on_dead:",
        ),
    ],
)
def test_what_is_odd_but_possible_is_a_warning(place: Place, keys: str, warning: str) -> None:
    """The daemon runs with it, and says so."""
    warnings = place.warnings(google(keys))
    assert len(warnings) == 1
    assert warnings[0].split(": ", 1)[1].startswith(warning)


def test_a_lease_longer_than_half_the_grace_is_a_warning(place: Place) -> None:
    """Whoever takes over from a dead holder has to be in time for the provider's grace."""
    text = google("lease: 20s\noutputs: [{file: o}]").replace("google", "{extends: google, grace: 30s}")
    assert "is more than half of the provider's grace (30s)" in place.warnings(text)[0]


def test_two_tokens_may_share_neither_output_nor_seed(place: Place) -> None:
    """One file has one writer, one grant has one token, also by way of a link."""
    (place.directory / "link").symlink_to(place.directory / "out")
    text = """\
        defaults: {provider: google, client: {file: c.json}}
        tokens:
          a: {seed: s, outputs: [{file: out/t}]}
          b: {seed: ./s, outputs: [{file: link/t}]}
        """
    assert place.problems(text) == [
        (
            "config.yaml:4:13: tokens.b.seed: is the seed of `a` too; "
            "two tokens can't share a grant: give each its own"
        ),
        (
            "config.yaml:4:35: tokens.b.outputs[0].file: out/t is also tokens.a.outputs[0]; "
            "write the token to a file of its own"
        ),
    ]


def test_a_mistake_in_defaults_is_said_once_and_there(place: Place) -> None:
    """Ten tokens that take over one mistake don't make ten mistakes."""
    text = "defaults: {provider: gogle, client: {file: c.json}, outputs: []}\ntokens: {a: , b: , c: {}}"
    assert place.problems(text) == [
        "config.yaml:1:22: defaults.provider: there is no provider profile of this name; did you mean google?"
    ]


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        ("gogle", "provider: there is no provider profile of this name; did you mean google?"),
        ("zzz", "provider: there is no provider profile of this name; there are: amazon-lwa, atlassian, "),
        (
            "generic",
            "provider.token_url: is missing; this profile doesn't know its token endpoint, so name it",
        ),
        ("{extends: zzz}", "provider.extends: only a built-in profile can be extended: there is no"),
        ("{token_url: sso.example}", "provider.token_url: is no URL; write it like https://host/path"),
        ("{token_url: 'https://[::1'}", "provider.token_url: is no URL"),
        ("{token_url: 'https://h:x/'}", "provider.token_url: is no URL"),
        ("{token_url: 'ftp://h/'}", "provider.token_url: is no URL"),
        (
            "{token_url: 'https://me:sim-cs-0123456789abcdef@h/'}",
            "provider.token_url: must hold no user name, passw",
        ),
        ("{token_url: 'https://h/#x'}", "provider.token_url: must hold no user name, password or #fragment"),
        (
            "{token_url: 'http://h/t'}",
            "provider.token_url: would send secrets to h in clear; write https, or accept",
        ),
        ("{extends: google, revocation_url: x}", "provider.revocation_url: is no URL"),
        ("{issuer: sso.example}", "provider.issuer: is no URL; write it like https://host/path"),
        ("{issuer: 'http://sso.example'}", "provider.issuer: would send secrets to sso.example in clear"),
        (
            "{issuer: 'https://sso.example/?a=b'}",
            "provider.issuer: has a ?query or #fragment, and no issuer has",
        ),
        ("{extends: google, device_authorization_url: x}", "provider.device_authorization_url: is no URL"),
        (
            "{extends: google, method: GET}",
            "provider.method: is GET, which has no body; write `body: query` too",
        ),
        (
            "{extends: google, method: GET, body: json}",
            "provider.method: is GET, which has no body; write `body: query` too",
        ),
        (
            "{extends: google, param_names: {client_id: ''}}",
            "provider.param_names.client_id: has no name; write what",
        ),
        (
            "{extends: google, extra_headers: {Authorization: 'Bearer sim-cs-0123456789abcdef'}}",
            "provider.extra_headers.Authorization: is set by the daemon alone; remove it",
        ),
        (
            "{extends: google, extra_headers: {content-LENGTH: '1'}}",
            "provider.extra_headers.content-LENGTH: is set by the daemon alone",
        ),
        (
            '{extends: google, extra_headers: {X-A: "b\\nc: d"}}',
            "provider.extra_headers.X-A: is no header of one line; correct it",
        ),
        ("{extends: google, extra_headers: {'a b': c}}", "provider.extra_headers.'a b': is no header of one"),
        (
            "{extends: google, errors: [{outcome: dead, description: '('}]}",
            "provider.errors[0].description: is no reg",
        ),
    ],
)
def test_a_provider_must_be_known_and_its_endpoints_safe(place: Place, provider: str, problem: str) -> None:
    """What can't be called, or not without giving secrets away, is refused."""
    text = f"allow_volatile_store: true\ntokens: {{a: {{provider: {provider}, client: {{id: x}}}}}}"
    problems = place.problems(text)
    assert len(problems) == 1
    assert problems[0].split(": ", 1)[1].startswith(f"tokens.a.{problem}")
    assert "sim-cs-" not in problems[0]


def test_two_members_can_not_have_one_name(place: Place) -> None:
    """The provider would get one of them alone, and which one nobody could tell."""
    names = "param_names: {client_id: key, client_secret: key}"
    problems = place.problems(google("").replace("google", f"{{extends: google, {names}}}"))
    assert [problem.partition("param_names.")[2] for problem in problems] == [
        "client_id: is a second `key`; rename one",
        "client_secret: is a second `key`; rename one",
    ]


def test_an_issuer_stands_for_its_endpoints(place: Place) -> None:
    """Nobody is asked while a configuration is checked."""
    loaded = place.load("tokens: {a: {provider: {issuer: 'https://sso.invalid/realms/x'}, client: {id: x}}}")
    profile = loaded.settings.profiles["a"]
    assert (profile.issuer, profile.token_url) == ("https://sso.invalid/realms/x", "")


def test_what_was_written_is_told_from_what_was_not(place: Place) -> None:
    """So that an issuer's metadata may replace a default, and nothing else."""
    text = """
        providers: {own: {issuer: https://sso.invalid, auth_method: client_secret_post}}
        tokens:
          a: {provider: own, client: {id: x}}
          b: {provider: {issuer: https://sso.invalid}, client: {id: x}}
    """
    profiles = place.load(text).settings.profiles
    assert ["auth_method" in profiles[name].sources for name in "ab"] == [True, False]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            "grant: token_exchange",
            "subject_token: is missing; name the file with the token that is traded in",
        ),
        ("subject_token: t", "subject_token: has no use: the grant refresh_token trades nothing in; remove"),
        ("resource: api.example", "resource: is no whole URL without a #fragment (RFC 8707 §2); correct it"),
        ("resource: 'https://api.example/#a'", "resource: is no whole URL without a #fragment"),
        ("grant: token_exchange\nsubject_token: t\nseed: s", "seed: has no use: the grant token_exchange"),
    ],
)
def test_a_grant_needs_what_it_needs_and_no_more(place: Place, more: str, problem: str) -> None:
    """Keys that another grant would use are as wrong as keys that are missing."""
    problems = place.problems(google(more))
    assert len(problems) == 1
    assert f"tokens.a.{problem}" in problems[0]


@pytest.mark.parametrize(
    "more",
    [
        "grant: token_exchange\nsubject_token: t\nresource: urn:example:api",
        "grant: token_exchange\nsubject_token: {file: t, type: 'urn:example:kind'}",
        "grant: living_token\nseed: s",
    ],
)
def test_grants_with_all_they_need(place: Place, more: str) -> None:
    """A subject token's path may stand alone; a living token is seeded as a refresh token is."""
    place.load(google(more))


def test_no_output_replaces_a_subject_token(place: Place) -> None:
    """Somebody else keeps it fresh."""
    problems = place.problems(google("grant: token_exchange\nsubject_token: t\noutputs: [{file: t}]"))
    assert "outputs[0].file: " in problems[0]
    assert "is also tokens.a.subject_token" in problems[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]:8080"])
def test_plain_http_is_for_loopback(place: Place, host: str) -> None:
    """A simulator on this machine needs no certificate."""
    place.load(f"tokens: {{a: {{provider: {{token_url: 'http://{host}/t'}}, client: {{id: x}}}}}}")


def test_plain_http_can_be_accepted(place: Place) -> None:
    """Whoever asks for it in so many words gets it."""
    text = "tokens: {a: {provider: {token_url: 'http://sso.example/t'}, client: {id: x}}}"
    place.load(f"allow_insecure_http: true\n{text}")


@pytest.mark.parametrize(
    ("rotation", "words"), [("always", "rotates"), ("sometimes", "rotates"), ("unknown", "may rotate")]
)
def test_a_rotating_refresh_token_stays_inside(place: Place, rotation: str, words: str) -> None:
    """A refresh token that is used outside the daemon would kill the grant."""
    provider = f"{{token_url: '{TOKEN_URL}', rotation: {rotation}}}"
    text = google("outputs: [{file: o, include_refresh_token: true}]").replace("google", provider)
    assert f"is refused: this provider {words} refresh tokens" in place.problems(text)[0]


def test_rotating_refresh_tokens_need_a_durable_store(place: Place) -> None:
    """Memory loses the only copy of a rotated refresh token, unless that was accepted."""
    text = f"store: 'memory:'\ntokens: {{a: {{provider: {{token_url: '{TOKEN_URL}'}}, client: {{id: x}}}}}}"
    problems = place.problems(text)
    assert len(problems) == 1
    assert problems[0].startswith(
        "config.yaml:1:8: store: is in memory, and lost with the pod or at reboot; "
    )
    assert "the refresh tokens of a, which may rotate" in problems[0]
    place.load(f"allow_volatile_store: true\n{text}")
    place.load("store: 'memory:'\n" + google(""))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server: {host: 'a b'}", "server.host: is no host name or address; write it like 127.0.0.1 or ::"),
        ("server: {host: 'localhost:80'}", "server.host: holds a port; write it under `port`"),
        ("control: {group: -1}", "control.group: is no numeric id"),
        ("store: {url: 'memory:', url_file: x}", "store: has both `url` and `url_file`; keep one"),
        (
            "store: file.db",
            "store: is no store's URL; write sqlite:///absolute/path, sqlite:path, postgresql://",
        ),
        ("store: 'sqlite://host/x'", "store: is no store's URL"),
        ("store: 'sqlite:'", "store: is no store's URL"),
        ("store: 'aws-secretsmanager:sim-cs-0123456789abcdef'", "store: is no store's URL"),
        ("store: aws-secretsmanager://gmail", "namespace: is missing; a store that others use too"),
        (
            "namespace: x\nstore: {url: aws-secretsmanager://gmail, encryption_keys: [k]}",
            "store.encryption_keys: seal nothing here: others read the tokens of",
        ),
        (
            "store: {url: 'sqlite:x', delete_dead: true}",
            "store.delete_dead: is for aws-secretsmanager:// stores",
        ),
    ],
)
def test_the_rest_of_the_file(place: Place, text: str, problem: str) -> None:
    """What stands outside of tokens is checked as well."""
    problems = place.problems(f"{text}\n{google('')}")
    assert len(problems) == 1
    assert problems[0].split(": ", 1)[1].startswith(problem)
    assert "sim-cs-" not in problems[0]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            "client: {id: x}\nseed: {aws_secret: {name: s}}\noutputs: [{aws_secret: {name: s}}]",
            "tokens.b.outputs[0].aws_secret: s is also tokens.b.seed; ",
        ),
        (
            "client: {id_aws_secret: c}\noutputs: [{aws_secret: {name: c}}]",
            "tokens.b.outputs[0].aws_secret: c is also tokens.b.client.id_aws_secret; ",
        ),
        (
            "client: {id: x}\noutputs: [{aws_secret: {name: gmail/b}}]",
            "tokens.b.outputs[0].aws_secret: gmail/b is also where the store keeps `b`; ",
        ),
        (
            "client: {id: x, id_aws_secret: c}\noutputs: []",
            "tokens.b.client.id_aws_secret: contradicts `id`, which says the same",
        ),
        (
            "client: {id: x}\noutputs: [{aws_secret: {name: 'a b'}}]",
            "tokens.b.outputs[0].aws_secret.name: ",
        ),
    ],
)
def test_secrets_of_aws_have_one_use(place: Place, keys: str, problem: str) -> None:
    """No token is written over a seed, a client's id or a record, and no client is named twice."""
    head = "namespace: x\nstore: aws-secretsmanager://gmail\n"
    problems = place.problems(f"{head}tokens:\n  b:\n    provider: google\n{indent(keys, '    ')}")
    assert len(problems) == 1
    assert problems[0].split(": ", 1)[1].startswith(problem)


def test_a_restart_needs_a_store_that_outlives_the_pod(place: Place) -> None:
    """A pod that began anew would restart its workload, and so itself, for ever; saying it's volatile is no cure."""
    text = """\
        store: "memory:"
        allow_volatile_store: true
        tokens:
          a:
            provider: google
            client: {id: me, auth_method: none}
            outputs: [{file: o}]
            after_refresh: [{rollout_restart: {deployment: d}}]
        """
    [problem] = place.problems(text)
    assert (
        "tokens.a.after_refresh[0].rollout_restart: the store is in memory: a pod that comes from" in problem
    )


def test_outputs_that_are_no_files_are_required_only_when_told(place: Place) -> None:
    """A pod must be able to start while an API server is away."""
    text = """\
        tokens:
          a:
            provider: google
            client: {id: me, auth_method: none}
            outputs:
              - {file: o}
              - {file: p, required: false}
              - {kubernetes_secret: {name: n, key: k}}
              - {kubernetes_secret: {name: n, key: l}, required: true}
        """
    outputs = place.load(text).settings.tokens["a"].outputs
    assert [output.is_required for output in outputs] == [True, False, False, True]


def test_columns_of_one_row_and_rows_of_one_column_are_apart(place: Place) -> None:
    """What looks alike and is another cell is no contradiction; a value may be a number."""
    rows = (
        "where: {k: v}, column: c",
        "where: {k: w}, column: c",
        "where: {k: v}, column: d, updated_column: c",
        "where: {k: 7, l: v}, column: c",
    )
    outputs = "".join(f"      - sql: {{url: 'postgresql:///d', table: '\"a.b\".t', {row}}}\n" for row in rows)
    text = f"tokens:\n  a:\n    provider: google\n    client: {{id: me, auth_method: none}}\n    outputs:\n{outputs}"
    given = place.load(text).settings.tokens["a"].outputs
    assert [output.is_required for output in given] == [False] * 4
    assert {output.sql.relation for output in given if output.sql is not None} == {("a.b", "t")}
    assert "postgresql" not in repr(given)
