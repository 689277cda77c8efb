"""The Secrets Manager store alone: its layout, what costs a version, what a kill leaves, whose the secret is.

moto is corrected in two points (tests/aws/moto.py), and never lags; where AWS does, it is made to here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from sidecar.clients import aws as client
from sidecar.clients.aws import Described, Fault, Kind, SecretsManager
from sidecar.config.aws import SecretsPlace, secrets_place
from sidecar.errors import ConfigError, Conflict, RecordUnreadable, StoreError, Unlisted, Unwritten
from sidecar.ports import Grade, Held
from sidecar.seal import open_sealer
from sidecar.stores import open_store
from sidecar.stores.aws import PENDING, STATE, AwsStore
from sidecar.tokens import (
    HISTORY_LENGTH,
    AccessToken,
    Attempt,
    Backoff,
    Orphan,
    OutcomeClass,
    Record,
    RefreshToken,
    Turn,
    new_id,
)
from tests.aws.moto import Moto
from tests.stores.conftest import ManualClock, new_key

KEY = "mail/user/alice"
AT, RT = "sim-at-0123456789abcdef01234567", "sim-rt-0123456789abcdef01234567"
WRITTEN = {
    "access_token": AT,
    "refresh_token": RT,
    "expires_at": "2027-01-15T09:00:00.250000",
    "expires_in": 3599,
    "scope": "openid https://mail.google.com/",
    "token_type": "Bearer",
    "created_at": "2026-11-01T08:00:00.123456",
    "google_user_id": "1138",
    "google_email": "alice@example.com",
    "google_name": "Alice Ünicode",
    "google_verified_email": True,
}
"""As the backend of scenario S6 writes it."""
ENDS = 1_800_003_600.25
"""Its expiry in Unix seconds: it is UTC, without saying so."""


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows no other event loop."""
    return "asyncio"


class Bench:
    """One place in AWS, and stores on it."""

    def __init__(self, moto: Moto) -> None:
        self.moto = moto
        self.place = SecretsPlace(moto.prefix())
        self.clock = ManualClock()
        self.api = SecretsManager()
        self.store = self.another()
        self.name = self.place.secret_of(KEY)

    def another(self, **options: Any) -> AwsStore:
        return AwsStore(self.place, self.clock, self.api, namespace="mail", **options)

    async def held(self, key: str = KEY) -> Held:
        found = await self.store.load(key)
        assert found is not None
        return found

    def leased(self, record: Record, **changes: Any) -> Record:
        name = record.refresh.fingerprint if record.refresh else ""
        attempt = Attempt(id=new_id(), instance="i", fingerprint=name, started_at=self.clock.wall())
        return replace(record, attempt=attempt, client_id="ios", endpoint="https://p.example", **changes)

    def refreshed(self, record: Record, count: int = 1) -> Record:
        now = self.clock.wall()
        access = AccessToken(
            f"{AT}-{count}", now, now + 3599.0, 3599.0, scope="openid https://mail.google.com/"
        )
        turn = Turn(now, OutcomeClass.SUCCESS, "", record.generation + 1, 0.2)
        return replace(
            record, access=access, attempt=None, backoff=None, generation=record.generation + 1
        ).remember(turn)


@pytest.fixture
async def bench(aws: Moto) -> AsyncIterator[Bench]:
    """A place of one's own, with an open client."""
    made = Bench(aws)
    async with made.api:
        yield made


# The layout


async def test_a_secret_of_a_backend_is_a_grant(bench: Bench) -> None:
    """What a backend wrote, without anything of ours in it, is a record that begins with its tokens."""
    bench.moto.put(bench.name, WRITTEN)
    record = (await bench.held()).record
    assert record.access is not None
    assert record.refresh is not None
    assert (record.access.value, record.access.expires_at, record.access.ttl) == (AT, ENDS, 3599)
    assert (record.refresh.value, record.seeds) == (RT, (record.refresh.fingerprint,))
    assert record.refresh.consented_at == pytest.approx(1_793_520_000.123456)
    assert (await bench.held()).record == record
    assert (record.client_id, record.endpoint) == ("", "")


@pytest.mark.parametrize(
    "written",
    [
        "2027-01-15T09:00:00.250000",
        "2027-01-15T09:00:00.25Z",
        "2027-01-15T10:00:00.250+01:00",
        "2027-01-15 09:00:00.250",
        ENDS,
    ],
)
async def test_an_expiry_is_read_in_any_form(bench: Bench, written: object) -> None:
    """ISO 8601 with an offset, with Z or with none, which means UTC, and seconds are all understood."""
    bench.moto.put(bench.name, {**WRITTEN, "expires_at": written})
    access = (await bench.held()).record.access
    assert access is not None
    assert access.expires_at == pytest.approx(ENDS)


async def test_a_refresh_changes_what_it_has_to(bench: Bench) -> None:
    """After a refresh the backend finds its own layout: new token, its own members, creation time and order kept."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    await bench.store.write(KEY, bench.refreshed(found.record), expected=found.version)
    written = bench.moto.value(bench.name)
    ours = written.pop("token_sidecar")
    changed = {"access_token": f"{AT}-1", "expires_at": "2027-01-15T09:16:39.000000"}
    assert written == {**WRITTEN, **changed}
    assert list(written) == list(WRITTEN)
    assert AT not in json.dumps(ours)
    assert RT not in json.dumps(ours)


async def test_a_record_of_ours_is_in_the_layout_too(bench: Bench) -> None:
    """A secret that the daemon creates has the members that a backend reads, its creation time included."""
    record = bench.refreshed(Record(lineage="l", refresh=RefreshToken(RT, 1.8e9)))
    await bench.store.write(KEY, record, expected=None)
    written = bench.moto.value(bench.name)
    assert set(WRITTEN) - set(written) == {
        "google_user_id",
        "google_email",
        "google_name",
        "google_verified_email",
    }
    assert written["created_at"] == "2027-01-15T08:16:40.000000"
    assert bench.moto.tags(bench.name) == {"token-sidecar:namespace": "mail"}
    assert (await bench.held()).record == record


async def test_everything_of_a_record_comes_back(bench: Bench) -> None:
    """What has no place in the layout is kept beside it: exact times, orphans, what a newer version added."""
    access = AccessToken(AT, 1.8e9 + 0.1, 1.8e9 + 3599.123456789, 3599.5, scope=None)
    record = msgspec.convert({"lineage": "l", "orphans": [], "replaced": ["a" * 12]}, Record)
    record = replace(
        record,
        access=access,
        refresh=RefreshToken(RT, 1.8e9, expires_at=1.9e9, consented_at=1.7e9),
        orphans=(Orphan("other", RefreshToken(f"{RT}-orphan", 1.0)),),
    )
    await bench.store.write(KEY, record, expected=None)
    assert (await bench.held()).record == record


async def test_a_backend_that_refreshed_keeps_the_grant(bench: Bench) -> None:
    """An access token that the backend replaced by itself is taken over; lineage and generation go on."""
    await bench.store.write(KEY, bench.refreshed(Record("l", refresh=RefreshToken(RT, 1.8e9))), expected=None)
    before = await bench.held()
    theirs = {"access_token": f"{AT}-theirs", "expires_at": "2027-01-15T10:00:00"}
    bench.moto.put(bench.name, {**bench.moto.value(bench.name), **theirs})
    after = await bench.held()
    assert after.version != before.version
    assert after.record == replace(before.record, access=after.record.access)
    assert after.record.access is not None
    assert (after.record.access.value, after.record.access.expires_at) == (f"{AT}-theirs", 1_800_007_200)


@pytest.mark.parametrize("keeps_ours", [True, False])
async def test_a_user_who_connects_again_begins_anew(bench: Bench, *, keeps_ours: bool) -> None:
    """Another refresh token in the secret is another grant, whether or not our member was left in place."""
    await bench.store.write(KEY, bench.refreshed(Record("l", refresh=RefreshToken(RT, 1.8e9))), expected=None)
    rest = bench.moto.value(bench.name) if keeps_ours else {}
    bench.moto.put(bench.name, {**rest, **WRITTEN, "refresh_token": f"{RT}-new"})
    record = (await bench.held()).record
    assert record.refresh is not None
    assert (record.refresh.value, record.generation, record.dead) == (f"{RT}-new", 0, None)
    assert record.lineage != "l"
    assert record.seeds[-1] == record.refresh.fingerprint


async def test_a_token_that_was_replaced_is_not_used_again(bench: Bench) -> None:
    """A refresh token that comes back after it was replaced is dead on arrival: sending it may kill the grant."""
    first = RefreshToken(RT, 1.8e9)
    record = replace(
        bench.refreshed(Record("l", refresh=RefreshToken(f"{RT}-2", 1.8e9))), replaced=(first.fingerprint,)
    )
    await bench.store.write(KEY, record, expected=None)
    bench.moto.put(bench.name, {**bench.moto.value(bench.name), "refresh_token": RT})
    assert (await bench.held()).record.is_dead()


@pytest.mark.parametrize(
    "text", ["", "no json " + RT, '{"half": ', "[]", '{"google_user_id": "1138"}', '{"refresh_token": 5}']
)
async def test_what_is_no_grant_is_left_alone(bench: Bench, text: str) -> None:
    """A secret that nobody can understand is an error that names it and quotes nothing, and is not overwritten."""
    bench.moto.put(bench.name, text or " ")
    with pytest.raises(RecordUnreadable, match=KEY) as caught:
        await bench.store.load(KEY)
    assert "sim-" not in str(caught.value)
    with pytest.raises(Conflict):
        await bench.store.write(KEY, Record("l"), expected=None)
    assert bench.moto.text(bench.name) == text or " "


# What costs a version


async def test_a_refresh_is_one_version(bench: Bench) -> None:
    """Lease, its renewal, a failure and a commit add one version in all, which has the attempt's id."""
    bench.moto.put(bench.name, WRITTEN)
    before = set(bench.moto.versions(bench.name))
    found = await bench.held()
    leased = bench.leased(found.record)
    version = await bench.store.write(KEY, leased, expected=found.version, lease=30)
    version = await bench.store.write(KEY, leased, expected=version, lease=30)
    backoff = Backoff(OutcomeClass.TRANSIENT, "busy", 1, 1.8e9 + 30, 1.8e9)
    failed = replace(leased, attempt=None, backoff=backoff).remember(
        Turn(1.8e9, OutcomeClass.TRANSIENT, "busy", 0, 0.1)
    )
    version = await bench.store.write(KEY, failed, expected=version)
    assert (await bench.another().load(KEY)).record == failed  # type: ignore[union-attr]
    again = bench.leased(failed)
    version = await bench.store.write(KEY, again, expected=version, lease=30)
    assert set(bench.moto.versions(bench.name)) == before
    await bench.store.write(KEY, bench.refreshed(again), expected=version)
    added = set(bench.moto.versions(bench.name)) - before
    assert added == {again.attempt.id}  # type: ignore[union-attr]
    assert bench.moto.versions(bench.name)[added.pop()] == [PENDING, "AWSCURRENT"]


async def test_tags_hold_no_secret(bench: Bench) -> None:
    """What lies beside the value names tokens by their fingerprints: whoever may list secrets sees tags."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    await bench.store.write(KEY, bench.leased(found.record), expected=found.version, lease=30)
    tags = bench.moto.tags(bench.name)
    assert all(name.startswith(STATE) for name in tags)
    assert all(len(text) <= 256 for text in tags.values())
    state = bench.another()
    assert (await state.load(KEY)).record.attempt is not None  # type: ignore[union-attr]
    assert AT not in str(tags)


async def test_what_tags_cannot_hold_takes_a_version(bench: Bench) -> None:
    """A long outage whose history outgrows the tags costs a version, and loses no turn."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    record, version = found.record, found.version
    before = len(bench.moto.versions(bench.name))
    for number in range(32):
        reason = " ".join(new_id() for _ in range(6))
        record = record.remember(Turn(1.8e9 + number, OutcomeClass.TRANSIENT, reason, 0, 0.1))
        version = await bench.store.write(KEY, record, expected=version)
    assert (await bench.another().load(KEY)).record == record  # type: ignore[union-attr]
    assert 1 <= len(bench.moto.versions(bench.name)) - before <= 4


async def test_a_history_that_is_full_costs_no_versions(bench: Bench) -> None:
    """Where retries share an entry for want of room, that is told beside the value as well."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    record = found.record
    for number in range(HISTORY_LENGTH):
        record = record.remember(Turn(1.8e9 + number, OutcomeClass.SUCCESS, "", number, 0.1))
    record = replace(record, generation=HISTORY_LENGTH)
    version = await bench.store.write(KEY, record, expected=found.version)
    before = set(bench.moto.versions(bench.name))
    for number in range(3):
        record = record.remember(Turn(1.9e9 + number, OutcomeClass.TRANSIENT, "busy", 31, 0.1))
        version = await bench.store.write(KEY, record, expected=version)
    assert record.history[0].times == 4
    assert (await bench.another().load(KEY)).record == record  # type: ignore[union-attr]
    assert set(bench.moto.versions(bench.name)) == before


async def test_a_record_that_is_too_large_is_refused_before_it_is_sent(bench: Bench) -> None:
    """AWS takes 64 KiB; the error says so, and that certainly nothing was written."""
    record = Record("l", refresh=RefreshToken("sim-rt-".ljust(66_000, "x"), 0))
    with pytest.raises(Unwritten, match="a secret holds 65536 at most"):
        await bench.store.write(KEY, record, expected=None)
    assert not bench.moto.exists(bench.name)


# What a kill leaves


class Broken(SecretsManager):
    """A client whose calls break off, before or after AWS has done them; kills are like that, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: tuple[str, str] | None = None
        self.asked: list[str] = []

    async def _ask(self, action: str, name: str, **members: Any) -> dict[str, Any]:
        self.asked.append(action)
        if self.lost == (action, "before"):
            raise Fault(Kind.UNREACHABLE, "no way there", "wait", refused=True)
        answer = await super()._ask(action, name, **members)
        if self.lost == (action, "after"):
            raise Fault(Kind.TEMPORARY, "no answer", "wait", refused=False)
        return answer


STEPS = [
    ("PutSecretValue", "before", False),
    ("PutSecretValue", "after", True),
    ("UpdateSecretVersionStage", "before", True),
    ("UpdateSecretVersionStage", "after", True),
]


@pytest.mark.parametrize(("action", "when", "landed"), STEPS)
async def test_a_commit_that_breaks_off_is_found(bench: Bench, action: str, when: str, landed: bool) -> None:  # noqa: FBT001
    """Wherever a commit breaks off, the next process finds the old record, or the new one as the current version."""
    bench.moto.put(bench.name, WRITTEN)
    api = Broken()
    async with api:
        store = AwsStore(bench.place, bench.clock, api, namespace="mail")
        found = await store.load(KEY)
        assert found is not None
        leased = bench.leased(found.record)
        version = await store.write(KEY, leased, expected=found.version, lease=30)
        committed = bench.refreshed(leased)
        api.lost = (action, when)
        with pytest.raises(StoreError) as caught:
            await store.write(KEY, committed, expected=version)
        assert (
            isinstance(caught.value, Unwritten) == (when == "before" and action == "PutSecretValue") or landed
        )
    after = await bench.held()
    assert after.record == (committed if landed else leased)
    assert bench.moto.value(bench.name)["access_token"] == (f"{AT}-1" if landed else AT)
    if not landed:
        assert after.lease_left == 30
    await bench.store.write(KEY, bench.refreshed(after.record, 2), expected=after.version)
    assert bench.moto.value(bench.name)["access_token"] == f"{AT}-2"


async def test_a_commit_that_somebody_overtook_stays_behind(bench: Bench) -> None:
    """A version that never became current is not dug out again once somebody else has written the secret."""
    bench.moto.put(bench.name, WRITTEN)
    api = Broken()
    async with api:
        store = AwsStore(bench.place, bench.clock, api, namespace="mail")
        found = await store.load(KEY)
        assert found is not None
        api.lost = ("UpdateSecretVersionStage", "before")
        with pytest.raises(StoreError):
            await store.write(KEY, bench.refreshed(found.record), expected=found.version)
    bench.moto.put(bench.name, {**WRITTEN, "refresh_token": f"{RT}-new"})
    record = (await bench.held()).record
    assert record.refresh is not None
    assert record.refresh.value == f"{RT}-new"


async def test_current_is_moved_from_the_expected_version_only(bench: Bench) -> None:
    """Where somebody else moved it between the look and the move, the commit has lost, and theirs stays."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    put = bench.api.put

    async def overtaken(name: str, text: str, **rest: Any) -> None:
        await put(name, text, **rest)
        bench.moto.put(name, {**WRITTEN, "access_token": f"{AT}-theirs"})

    bench.api.put = overtaken  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await bench.store.write(KEY, bench.refreshed(found.record), expected=found.version)
    assert bench.moto.value(bench.name)["access_token"] == f"{AT}-theirs"


async def test_an_answer_that_lags_is_recognised(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS may go on telling of what was replaced: for a minute this process knows better, and then believes it."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    old = await bench.api.describe(bench.name)
    record = bench.refreshed(found.record)
    version = await bench.store.write(KEY, record, expected=found.version)

    async def lagging(_name: str) -> Described:
        return old

    monkeypatch.setattr(bench.api, "describe", lagging)
    held = await bench.held()
    assert (held.record, held.version) == (record, version)
    bench.clock.now += client.SETTLED_AFTER
    assert (await bench.held()).record == found.record


# Deleting


async def test_a_deleted_record_can_be_restored(bench: Bench) -> None:
    """Deleting marks the secret for deletion in thirty days; who restores it has the record again."""
    record = bench.refreshed(Record("l", refresh=RefreshToken(RT, 1.8e9)))
    version = await bench.store.write(KEY, record, expected=None)
    await bench.store.delete(KEY, expected=version)
    assert await bench.another().load(KEY) is None
    assert await bench.store.keys() == []
    bench.moto.client.restore_secret(SecretId=bench.name)
    assert (await bench.another().load(KEY)).record == record  # type: ignore[union-attr]


async def test_discarding_leaves_no_way_back(bench: Bench) -> None:
    """What is discarded is gone, by the version that was read, and its name is free."""
    version = await bench.store.write(KEY, Record("l", refresh=RefreshToken(RT, 1.8e9)), expected=None)
    with pytest.raises(Conflict):
        await bench.store.discard(KEY, expected="other")
    assert await bench.store.discard(KEY, expected=version) == f"the secret {bench.name}"
    assert not bench.moto.exists(bench.name)


# Names and lists


async def test_new_secrets_are_listed_page_by_page(bench: Bench) -> None:
    """All secrets under the prefix are keys, however many pages they take; neighbours and deleted ones are not."""
    for number in range(103):
        bench.moto.put(f"{bench.place.prefix}/user/{number:03}", WRITTEN)
    bench.moto.put(f"{bench.place.prefix}/other", WRITTEN)
    bench.moto.put(f"{bench.place.prefix}er/user/x", WRITTEN)
    bench.moto.client.delete_secret(SecretId=f"{bench.place.prefix}/user/007")
    keys = await bench.store.keys("mail/user/")
    assert len(keys) == 102
    assert (keys[0], keys[-1]) == ("mail/user/000", "mail/user/102")
    assert "mail/other" in await bench.store.keys()


@pytest.mark.parametrize(
    ("record", "secret"),
    [
        ("user/alice", "p/user/alice"),
        ("user/a@b.example", "p/user/a@b.example"),
        ("user/two words~", "p/user/two=20words=7E"),
        ("user/ü鍵", "p/user/=C3=BC=E9=8D=B5"),
        ("user/a=b", "p/user/a=b"),
        ("user/a=20b", "p/user/a=3D20b"),
    ],
)
def test_names_are_spelt_so_that_aws_takes_them(record: str, secret: str) -> None:
    """Whatever AWS doesn't take is escaped, and comes back; no two records share a secret."""
    place = SecretsPlace("p")
    assert place.secret_of(f"ns/{record}") == secret
    assert place.record_of(secret) == record


@pytest.mark.parametrize("secret", ["p", "p/", "q/user", "pq/user", "p/=41", "p/=FF"])
def test_other_secrets_are_no_records(secret: str) -> None:
    """What lies elsewhere, or is spelt as we never spell it, is nobody's record."""
    assert SecretsPlace("p").record_of(secret) is None


@pytest.mark.parametrize("url", ["aws-secretsmanager:x", "aws-secretsmanager://", "aws-secretsmanager:///x"])
def test_a_url_names_a_prefix(url: str) -> None:
    """A URL that names no usable prefix is refused, with what to write."""
    with pytest.raises(ConfigError, match="write aws-secretsmanager://PREFIX"):
        secrets_place(url)


def test_keys_for_sealing_are_refused(tmp_path: Any) -> None:
    """Nobody is left to believe that tokens which others read in clear were sealed."""
    with pytest.raises(ConfigError, match="encryption_keys seal nothing here"):
        open_store("aws-secretsmanager://p", ManualClock(), open_sealer([new_key(tmp_path)]))


# doctor


async def test_the_probe_leaves_no_trace(bench: Bench) -> None:
    """Whether a record can be written is found out by writing what is there already: no version, no tag, no move."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    await bench.store.write(KEY, bench.leased(found.record), expected=found.version, lease=30)
    before = bench.moto.versions(bench.name), bench.moto.tags(bench.name), await bench.held()
    await bench.store.probe(KEY)
    await bench.store.probe("mail/nobody")
    assert (bench.moto.versions(bench.name), bench.moto.tags(bench.name), await bench.held()) == before


async def test_a_closer_look_tells_region_and_rivals(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells where the secrets are, and that AWS's own rotation would write there as well."""
    bench.moto.put(bench.name, WRITTEN)
    [fine] = await bench.store.diagnose()
    assert fine.grade is Grade.OK
    assert "1 secret under" in fine.text
    assert "eu-central-1" in fine.text
    listed = await bench.api.list(bench.place.prefix)

    async def turned(_prefix: str) -> list[Described]:
        return [replace(one, rotates=True) for one in listed]

    monkeypatch.setattr(bench.api, "list", turned)
    assert [one.grade for one in await bench.store.diagnose()] == [Grade.OK, Grade.FAILED]


async def test_without_the_right_to_list_configured_tokens_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ListSecrets can't be limited to names, and not everybody grants it; the error names the action."""

    async def forbidden(_prefix: str) -> list[Described]:
        raise Fault(
            Kind.FORBIDDEN, "arn:x may not ListSecrets", "allow secretsmanager:ListSecrets", refused=True
        )

    monkeypatch.setattr(bench.api, "list", forbidden)
    with pytest.raises(Unlisted, match="secretsmanager:ListSecrets"):
        await bench.store.keys()
    [warning] = await bench.store.diagnose()
    assert warning.grade is Grade.WARNING


async def test_damaged_tags_are_told_of(bench: Bench) -> None:
    """Tags that somebody edited are an error that says which, and what to do; removed, the grant goes on."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    await bench.store.write(KEY, bench.leased(found.record), expected=found.version, lease=30)
    bench.moto.client.tag_resource(SecretId=bench.name, Tags=[{"Key": f"{STATE}-1", "Value": "edited"}])
    with pytest.raises(RecordUnreadable, match=f"the tags {STATE}… of the secret {bench.name} are damaged"):
        await bench.another().load(KEY)
    bench.moto.client.untag_resource(SecretId=bench.name, TagKeys=[STATE])
    assert (await bench.another().load(KEY)).record == found.record  # type: ignore[union-attr]


async def test_pieces_of_two_writes_are_no_state(bench: Bench) -> None:
    """Tags that are whole each, and of different writes, are told from those of one."""
    bench.moto.put(bench.name, WRITTEN)
    found = await bench.held()
    version = await bench.store.write(KEY, bench.leased(found.record), expected=found.version, lease=30)
    earlier = bench.moto.tags(bench.name)
    await bench.store.write(KEY, bench.leased(found.record), expected=version, lease=30)
    pieces = [{"Key": name, "Value": text} for name, text in earlier.items() if name != STATE]
    bench.moto.client.tag_resource(SecretId=bench.name, Tags=pieces)
    with pytest.raises(RecordUnreadable, match="are damaged"):
        await bench.another().load(KEY)
