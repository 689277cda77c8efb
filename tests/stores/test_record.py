"""Records: the way to bytes and back, and what their `repr` shows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.errors import RecordUnreadable
from sidecar.stores.base import read_blob
from sidecar.tokens import (
    SCHEMA_VERSION,
    AccessToken,
    Attempt,
    Backoff,
    Beyond,
    Death,
    ExpirySource,
    Orphan,
    OutcomeClass,
    Record,
    RefreshToken,
    Turn,
    decode_record,
    encode_record,
)

TEXT = st.text(max_size=20)
TIME = st.floats(allow_nan=False, allow_infinity=False)
LATER = st.none() | TIME
SECRETS = st.from_regex(r"sim-(at|rt)-[0-9a-f]{16,40}", fullmatch=True)
ACCESS = st.builds(
    AccessToken,
    value=SECRETS,
    issued_at=TIME,
    expires_at=LATER,
    ttl=LATER,
    expiry_source=st.sampled_from(ExpirySource),
    token_type=TEXT,
    scope=st.none() | TEXT,
    repeated_at=LATER,
)
REFRESH = st.builds(RefreshToken, value=SECRETS, issued_at=TIME, expires_at=LATER)
OUTCOME = st.sampled_from(OutcomeClass)
RECORDS = st.builds(
    Record,
    lineage=TEXT,
    generation=st.integers(0, 2**53),
    access=st.none() | ACCESS,
    refresh=st.none() | REFRESH,
    client_id=TEXT,
    endpoint=TEXT,
    attempt=st.none()
    | st.builds(Attempt, id=TEXT, instance=TEXT, fingerprint=TEXT, started_at=TIME, in_doubt_since=LATER),
    backoff=st.none()
    | st.builds(
        Backoff, outcome=OUTCOME, reason=TEXT, failures=st.integers(0, 99), not_before=TIME, since=TIME
    ),
    dead=st.none() | st.builds(Death, fingerprint=TEXT, client_id=TEXT, endpoint=TEXT, at=TIME, reason=TEXT),
    seeds=st.lists(TEXT, max_size=3).map(tuple),
    replaced=st.lists(TEXT, max_size=3).map(tuple),
    rotates=st.none() | st.booleans(),
    orphans=st.lists(st.builds(Orphan, lineage=TEXT, refresh=REFRESH), max_size=2).map(tuple),
    history=st.lists(
        st.builds(
            Turn,
            at=TIME,
            outcome=OUTCOME,
            reason=TEXT,
            generation=st.integers(0, 9),
            duration=TIME,
            what=TEXT,
            instance=TEXT,
            fingerprint=TEXT,
            refresh_fingerprint=TEXT,
            times=st.integers(1, 9),
            since=LATER,
        ),
        max_size=3,
    ).map(tuple),
)

WHOLE = Record(
    lineage="l",
    access=AccessToken("sim-at-0123456789abcdef", 0.0, None, None),
    refresh=RefreshToken("sim-rt-0123456789abcdef", 0.0),
    attempt=Attempt("a", "one", "", 0.0),
    backoff=Backoff(OutcomeClass.TRANSIENT, "", 1, 0.0, 0.0),
    dead=Death("", "", "", 0.0, ""),
    orphans=(Orphan("l", RefreshToken("sim-rt-0123456789abcdef", 0.0)),),
    history=(Turn(0.0, OutcomeClass.SUCCESS, "", 1, 0.1),),
)


@given(RECORDS)
def test_a_record_survives_the_way_to_bytes_and_back(record: Record) -> None:
    """Decoding what was encoded gives the same record, whatever is in it."""
    assert record == decode_record(encode_record(record))
    assert record == read_blob(encode_record(record), key="ns/a", place="here")


@given(RECORDS)
def test_a_repr_shows_no_secret(record: Record) -> None:
    """No secret of a record is in its repr, nor in that of any part of it."""
    assert "sim-" not in repr(record)
    assert "sim-" not in f"{record.access} {record.refresh} {record.orphans}"


@given(RECORDS)
def test_a_blob_names_its_schema(record: Record) -> None:
    """The schema is written even where it is the default: the reader's default may be another one."""
    assert msgspec.json.decode(encode_record(record))["schema"] == SCHEMA_VERSION


@given(RECORDS)
def test_what_a_newer_version_adds_survives(record: Record) -> None:
    """A member that this version does not know is carried along by its writes, and shown to nobody."""
    added = {"of_the_future": [1, {"value": "sim-rt-0123456789abcdef"}], "of_note": None}
    blob = msgspec.json.encode(msgspec.json.decode(encode_record(record)) | added)
    found = read_blob(blob, key="ns/a", place="here")
    assert replace(found, beyond=Beyond()) == record
    assert "sim-" not in repr(found)
    later = msgspec.json.decode(encode_record(replace(found, generation=7), "ns/a"))
    assert added.items() <= later.items()
    assert later["generation"] == 7


@pytest.mark.parametrize("part", ["access", "refresh", "attempt", "backoff", "dead", "orphans"])
def test_what_a_newer_version_adds_within_a_part_is_refused(part: str) -> None:
    """Inside of a token or an attempt it could not be carried along, so nothing of the record is touched."""
    fields = msgspec.json.decode(encode_record(WHOLE))
    (fields[part][0] if isinstance(fields[part], list) else fields[part])["of_the_future"] = 1
    with pytest.raises(RecordUnreadable, match="left untouched"):
        read_blob(msgspec.json.encode(fields), key="ns/a", place="here")


class OldTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn as the first version knew it."""

    at: float
    outcome: OutcomeClass
    reason: str
    generation: int
    duration: float


class OldRecord(msgspec.Struct):
    """What the first version read of a record's history."""

    history: tuple[OldTurn, ...] = ()


def test_versions_side_by_side_share_a_history() -> None:
    """An older version reads what this one writes, and what either adds to the history is in it."""
    old = msgspec.json.decode(encode_record(replace(WHOLE, history=())))
    del old["turns"]
    old["history"] = [msgspec.to_builtins(OldTurn(at, OutcomeClass.SUCCESS, "", 1, 0.1)) for at in (1.0, 2.0)]
    found = read_blob(msgspec.json.encode(old), key="ns/a", place="here")
    assert [turn.at for turn in found.history] == [1.0, 2.0]

    richer = Turn(3.0, OutcomeClass.TRANSIENT, "busy", 1, 0.1, instance="0123456789ab", times=2, since=2.5)
    blob = encode_record(found.remember(richer))
    assert msgspec.json.decode(blob, type=OldRecord).history == ()

    # It carries along what it does not know, and adds to what it knows.
    carried = msgspec.json.decode(blob)
    carried["history"] = [msgspec.to_builtins(OldTurn(4.0, OutcomeClass.SUCCESS, "", 2, 0.1))]
    again = read_blob(msgspec.json.encode(carried), key="ns/a", place="here")
    assert [turn.at for turn in again.history] == [1.0, 2.0, 3.0, 4.0]
    assert again.history[2] == richer
    assert read_blob(encode_record(again), key="ns/a", place="here") == again


def test_what_a_newer_version_tells_of_a_turn_is_left_out() -> None:
    """Nothing is decided by a history, so that a member of a turn that is not known is no reason to stand still."""
    fields = msgspec.json.decode(encode_record(WHOLE))
    fields["turns"][0] |= {"of_the_future": 1, "what": "something new"}
    found = read_blob(msgspec.json.encode(fields), key="ns/a", place="here")
    assert found.history == (replace(WHOLE.history[0], what="something new"),)


def test_a_record_belongs_under_one_key() -> None:
    """Copied to another token's row by hand it is refused: two tokens with one refresh token would burn it."""
    blob = encode_record(WHOLE, "ns/a")
    assert read_blob(blob, key="ns/a", place="here") == WHOLE
    with pytest.raises(RecordUnreadable, match="ns/b in here is a copy of another token's record"):
        read_blob(blob, key="ns/b", place="here")
    assert read_blob(encode_record(WHOLE), key="ns/b", place="here") == WHOLE


@given(
    st.binary(max_size=200)
    | RECORDS.map(encode_record).flatmap(lambda b: st.integers(0, len(b) - 1).map(lambda n: b[:n]))
)
def test_other_bytes_are_unreadable(blob: bytes) -> None:
    """Arbitrary bytes and halves of records give one error that shows none of them."""
    with pytest.raises(RecordUnreadable, match="the record ns/a in here") as caught:
        read_blob(blob, key="ns/a", place="here")
    assert "sim-" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
