from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import members, settings
from sidecar.config.members import LONGEST, SPELLINGS, may_meet, problem_of, spelt
from sidecar.config.settings import OnDead
from sidecar.errors import ConfigError, UnknownToken

if TYPE_CHECKING:
    from tests.config.conftest import Place

HEAD = """\
namespace: app
allow_volatile_store: true
store: "memory:"
tokens:
  gmail:
    provider: google
    client: {file: c.json}
"""
"""What comes next is in line 8 and begins in column 5."""

NAMES = st.one_of(
    st.text(min_size=1, max_size=LONGEST),
    st.text("./%2Ea-_@", min_size=1, max_size=8),
    st.text("%.é", min_size=60, max_size=120),
).filter(lambda name: not problem_of(name))

FITS = {
    "file": r"[^/\0.][^/\0]{0,254}",
    "object": r"[a-z0-9-]([a-z0-9-]|\.(?=[a-z0-9])){0,251}[a-z0-9]|[a-z0-9]",
    "key": r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}",
    "aws": r"[A-Za-z0-9/_+=@-][A-Za-z0-9/_+=.@-]{0,511}",
    "url": r"[A-Za-z0-9_~%-][A-Za-z0-9._~%-]*",
}
"""Kind of place → what is taken there."""


@pytest.mark.parametrize("kind", SPELLINGS)
@given(name=NAMES, other=NAMES)
def test_no_name_leaves_its_place_or_shares_it(kind: str, name: str, other: str) -> None:
    """Whatever an account is called, what is written is a name of its own there: no separator, no dot in front."""
    assert re.fullmatch(FITS[kind], spelt(name, kind))
    assert name == other or spelt(name, kind) != spelt(other, kind)


@pytest.mark.parametrize("kind", SPELLINGS)
@given(name=st.text("é/x", min_size=1, max_size=LONGEST // 2), room=st.integers(80, 253))
def test_a_name_that_is_too_long_is_cut_and_told_apart(kind: str, name: str, room: int) -> None:
    """It keeps within its room, and a name that differs in its last letter only gets another one."""
    assert len(spelt(name, kind, room)) <= room
    assert spelt(name + "x", kind, room) != spelt(name + "y", kind, room)


@given(
    start=st.text("ab{", max_size=3),
    end=st.text("ab}", max_size=3),
    name=st.text("ab", min_size=1, max_size=4),
)
def test_two_texts_that_may_meet_are_seen_to(start: str, end: str, name: str) -> None:
    """Whatever an account's name makes of a text is found among what that text may become."""
    assert may_meet(f"{start}{{account}}{end}", f"{start}{name}{end}")
    assert may_meet(f"{start}{{account}}{end}", f"{start}{name}{{account}}{name}{end}")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("alice@example.com", "alice@example.com"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("..", "%2E."),
        (".", "%2E"),
        (".hidden", "%2Ehidden"),
        ("a b%2F", "a%20b%252F"),
        ("Zoë", "Zo%C3%AB"),
    ],
)
def test_a_file_is_named_as_the_documentation_says(name: str, shown: str) -> None:
    """Readers that know an account's name find its file: percent-encoding, and a dot in front as well."""
    assert spelt(name, "file") == shown


def test_a_member_is_resolved_like_a_plain_token(place: Place) -> None:
    """`{account}` is replaced in every place that takes it, and the record's key follows from the name."""
    found = place.load(
        HEAD.replace('"memory:"', "sqlite:x.db")
        + """\
    for_each: {store: people/}
    outputs:
      - {file: "out/gmail-{account}.json"}
      - {kubernetes_secret: {name: "mail-{account}", key: "{account}.json"}}
      - {file: "out/{account}.netrc", format: netrc, machine: imap.example.com, login: "{account}"}
    after_refresh: [{rollout_restart: {deployment: "mail-{account}"}}]
  other: {provider: google, client: {file: c.json}}
"""
    ).settings
    assert [*found.tokens] == ["other"]
    member = found.resolve("gmail/A/b@c.d")
    first, second, third = member.settings.outputs
    assert first.file == place.directory / "out/gmail-A%2Fb@c.d.json"
    assert second.kubernetes_secret == settings.SecretKey(name="mail--41-2fb-40c.d", key="A_2Fb_40c.d.json")
    assert third.login == "A/b@c.d"
    assert member.settings.after_refresh[0].rollout_restart == settings.RolloutRestart(
        deployment="mail--41-2fb-40c.d"
    )
    assert member.key == found.key_of("gmail/A/b@c.d") == "app/people/A/b@c.d"
    assert found.name_of(member.key) == "gmail/A/b@c.d"
    assert found.name_of("app/other") == "other"
    assert found.name_of("app/people/") is None
    alone = found.only("gmail/A/b@c.d")
    assert alone.tokens == {"gmail/A/b@c.d": member.settings}
    assert alone.key_of("gmail/A/b@c.d") == member.key
    with pytest.raises(
        UnknownToken, match="no token is called 'x/y'; the configuration has: other, gmail/ACCOUNT"
    ):
        found.resolve("x/y")
    with pytest.raises(ConfigError, match="is longer than 255 bytes"):
        found.resolve("gmail/" + "x" * 256)


def test_an_accounts_trouble_is_not_everybodys_by_default(place: Place) -> None:
    """A member is not required and its death is reported; what is written there counts all the same."""
    found = place.load(HEAD + "    for_each: {}\n").settings.sets["gmail"]
    assert (found.required, found.on_dead) == (False, OnDead.REPORT)
    chosen = place.load(HEAD + "    for_each: {}\n    required: true\n    on_dead: unready\n").settings.sets[
        "gmail"
    ]
    assert (chosen.required, chosen.on_dead) == (True, OnDead.UNREADY)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("on_dead: restart", "9:14: tokens.gmail.on_dead: would restart the daemon of all accounts"),
        (
            "outputs: [{file: out/x}]",
            "9:15: tokens.gmail.outputs[0]: would be the same for all accounts; put {account}",
        ),
        ("seed: s.json", "9:11: tokens.gmail.seed: would be the same for all accounts; "),
        (
            "outputs: [{file: 'out/{account}/x'}]",
            "9:22: tokens.gmail.outputs[0].file: {account} belongs into the file's name: directories have to be",
        ),
        (
            "outputs: [{file: 'out/{account}{account}'}]",
            "9:22: tokens.gmail.outputs[0].file: has {account} in it more than once; leave one",
        ),
        (
            f"outputs: [{{file: 'out/{'x' * 160}{{account}}'}}]",
            "9:22: tokens.gmail.outputs[0].file: leaves too little room for {account}; shorten the rest to 155",
        ),
        (
            "audience: 'x-{account}'",
            "9:15: tokens.gmail.audience: {account} is not replaced here; leave it out",
        ),
        (
            "outputs: [{file: 'out/{account}.json'}, {file: 'out/{account}'}]",
            "9:52: tokens.gmail.outputs[1].file: an account's name could make this tokens.gmail.outputs[0]; ",
        ),
        (
            "outputs: [{file: '{account}.json'}]",
            "9:22: tokens.gmail.outputs[0].file: an account's name could make this tokens.gmail.client.file; ",
        ),
        (
            (
                "outputs: [{kubernetes_secret: {name: 'a-{account}', key: k}}, "
                "{kubernetes_secret: {name: 'a-b-{account}', key: k}}]"
            ),
            "9:87: tokens.gmail.outputs[1].kubernetes_secret: an account's name could make this tokens.",
        ),
    ],
)
def test_what_an_accounts_name_could_do_is_an_error(place: Place, keys: str, problem: str) -> None:
    """Everything that two accounts would share, or that one could reach, is reported at its line with the way out."""
    [told] = place.problems(HEAD + f"    for_each: {{store: gmail/}}\n    {keys}\n")
    assert told.startswith(f"config.yaml:{problem}")


@pytest.mark.parametrize(
    ("for_each", "problem"),
    [
        ("{store: gmail}", "8:23: tokens.gmail.for_each.store: is no name; use "),
        ("{store: ../x/}", "8:23: tokens.gmail.for_each.store: is no name; use "),
        ("{stor: gmail/}", "8:16: tokens.gmail.for_each.stor: unknown key; did you mean `store`?"),
        ("{every: 0s}", "8:23: tokens.gmail.for_each.every: is too often; write 1s or more"),
        (
            "{max_series: -1}",
            "8:28: tokens.gmail.for_each.max_series: is the number -1; it must be at least 0",
        ),
        (
            "{sql: {query: SELECT 1}}",
            "8:21: tokens.gmail.for_each.sql: is incomplete; add `url` or `url_file`",
        ),
        ("{sql: {url: 'postgresql://h/d'}}", "8:16: tokens.gmail.for_each.sql.query: is missing"),
    ],
)
def test_a_source_that_cannot_be_is_an_error(place: Place, for_each: str, problem: str) -> None:
    """Prefixes end with a slash, so that no plain token's record is taken for an account's."""
    [told] = place.problems(HEAD + f"    for_each: {for_each}\n")
    assert told.startswith(f"config.yaml:{problem}")


def test_an_account_is_nobodys_in_a_plain_token(place: Place) -> None:
    """`{account}` without `for_each` is a mistake, and not a file of that name."""
    [told] = place.problems(HEAD + '    outputs: [{file: "out/{account}.json"}]\n')
    assert told.startswith(
        "config.yaml:8:22: tokens.gmail.outputs[0].file: {account} stands for the accounts of a set"
    )


def test_sets_do_not_take_in_each_others_records(place: Place) -> None:
    """One prefix within another would make a set's records accounts of the other set."""
    text = (
        HEAD
        + "    for_each: {store: all/}\n  two: {provider: google, client: {file: c.json}, for_each: {store: all/b/}}\n"
    )
    [told] = place.problems(text)
    assert told.startswith("config.yaml:9:61: tokens.two.for_each: takes in records of the set `gmail`; ")


def test_a_plain_file_that_an_account_could_make_is_an_error(place: Place) -> None:
    """Between a token and a set as well: an account called like the token's file would write to it."""
    text = (
        HEAD
        + '    for_each: {}\n    outputs: [{file: "out/{account}.json"}]\n'
        + "  two: {provider: google, client: {file: c.json}, outputs: [{file: out/two.json}]}\n"
    )
    [told] = place.problems(text)
    assert told.startswith(
        "config.yaml:9:22: tokens.gmail.outputs[0].file: an account's name could make this tokens.two."
    )


def test_a_row_that_an_account_could_be_is_an_error(place: Place) -> None:
    """An account called like the value that tells a token's row would be given that row."""
    row = "{sql: {url: 'postgresql://h/d?sslmode=disable', table: t, column: c, where: {who: WHO}}}"
    mine, other = row.replace("WHO", "'{account}'"), row.replace("WHO", "me")
    text = (
        HEAD
        + f"    for_each: {{}}\n    outputs: [{mine}]\n"
        + f"  two: {{provider: google, client: {{file: c.json}}, outputs: [{other}]}}\n"
    )
    [told] = place.problems(text)
    assert (
        "an account's name could make this the row of tokens.two.outputs[0].sql; tell their rows apart"
        in told
    )
    kept = place.load(text.replace("who: me", "other: me")).settings.resolve("gmail/a'; DROP TABLE t")
    [output] = kept.settings.outputs
    assert output.sql is not None
    assert output.sql.where == {"who": "a'; DROP TABLE t"}


def test_a_set_needs_a_store_that_makes_room_by_itself(place: Place) -> None:
    """Secrets of a cluster are created by others, and a grant without refresh tokens never comes into a store."""
    text = HEAD.replace('store: "memory:"', "store: kubernetes://ns/tokens") + "    for_each: {}\n"
    [told] = place.problems(text)
    assert told.startswith(
        "config.yaml:8:15: tokens.gmail.for_each: needs a store that makes room for accounts"
    )
    text = HEAD + "    for_each: {}\n    grant: client_credentials\n    client: {id: x, secret: y}\n"
    [told] = place.problems(text.replace("    client: {file: c.json}\n", "", 1))
    assert "would never find an account: the grant client_credentials has no refresh tokens" in told


def test_members_are_made_without_a_second_look_at_what_is_the_same() -> None:
    """Settings that have no `{account}` in them are shared by all members, and not copied for each."""
    group = settings.TokenSettings(client=settings.Client(id="x"))
    assert members.expanded(group, "alice") is group
