from __future__ import annotations

import math
import platform
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sidecar.events import (
    CallFinished,
    ClockSkewSeen,
    CommitFinished,
    ConfigLoaded,
    Event,
    HookView,
    LeaseSought,
    OutputView,
    OutputWritten,
    SetListed,
    StoreAsked,
    TokenForgotten,
    TokenView,
    TurnEnded,
    Warned,
)
from sidecar.observers.metrics import BUCKETS, DEFINITIONS, PREFIX, Metrics
from sidecar.pulse import Heartbeats
from sidecar.tokens import AccessState, GrantState, OutcomeClass
from tests import promtool

NOW = 1_800_000_000.0

# The contract: names are fixed, whatever the code calls them.
NAMES = {
    "access_token_expiry_timestamp_seconds": ("token",),
    "refresh_token_expiry_timestamp_seconds": ("token",),
    "refresh_token_life_seconds": ("token",),
    "output_token_expiry_timestamp_seconds": ("output", "token"),
    "output_read_since_write": ("output", "token"),
    "next_refresh_timestamp_seconds": ("token",),
    "last_refresh_success_timestamp_seconds": ("token",),
    "min_validity_seconds": ("token",),
    "access_state": ("state", "token"),
    "grant_state": ("state", "token"),
    "refreshes_total": ("outcome", "token"),
    "refresh_duration_seconds_bucket": ("le", "provider"),
    "refresh_duration_seconds_count": ("provider",),
    "refresh_duration_seconds_sum": ("provider",),
    "leases_total": ("outcome", "token"),
    "store_last_success_timestamp_seconds": ("store",),
    "store_operations_total": ("outcome", "store"),
    "store_commits_total": ("outcome", "store"),
    "unpersisted_rotations": ("token",),
    "output_writes_total": ("outcome", "output", "token"),
    "provider_clock_skew_seconds": ("provider",),
    "config_last_reload_successful": (),
    "heartbeat_timestamp_seconds": ("worker",),
    "build_info": ("python", "version"),
}


class StillClock:
    """All three clocks stand still."""

    def wall(self) -> float:
        return NOW

    def boot(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 500.0


class Page:
    """The metrics of some views after some events."""

    def __init__(self, *views: TokenView, events: tuple[Event, ...] = ()) -> None:
        heartbeats = Heartbeats(StillClock())
        heartbeats.stamp("scheduler")
        self.metrics = Metrics(clock=StillClock(), heartbeats=heartbeats, store="sqlite", version="1.2.3")
        for event in events:
            self.metrics.notice(event)
        self.views = views

    def text(self, accept: str = "") -> str:
        return self.metrics.render(self.views, accept)[0].decode()

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name.startswith(PREFIX)
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples()[name, tuple(sorted(labels.items()))]


def a_view(**changes: Any) -> TokenView:
    """Make the view of a token, with changes."""
    view = TokenView(
        token="gmail",
        provider="google",
        required=True,
        on_dead="restart",
        dead_grace=None,
        outputs=(OutputView(output="o1", required=True),),
    )
    return msgspec.structs.replace(view, **changes)


def test_every_series_exists_before_anything_has_happened() -> None:
    """Names and labels are the contract's, and no series appears late."""
    page = Page(a_view())
    before = set(page.samples())

    assert {name: tuple(label for label, _ in labels) for name, labels in before} == NAMES
    for event in (
        CallFinished("gmail", "google", OutcomeClass.DEAD, "invalid_grant", 0.3),
        CommitFinished("gmail", "sqlite", "superseded"),
        OutputWritten("gmail", "o1", "failed", "read-only"),
        ClockSkewSeen("google", 1.5),
        ConfigLoaded(accepted=True),
        Warned("here", "something"),
    ):
        page.metrics.notice(event)
    assert set(page.samples()) == before


def made(kind: type[Event], word: str, outcome: OutcomeClass) -> Event:
    """Make an event whose words are all this one."""
    values = {"str": word, "float": 1.5, "bool": True, "TokenView": a_view(), "OutcomeClass": outcome}
    required = [field.name for field in msgspec.structs.fields(kind) if field.required]
    # The module's annotations are strings; what is left are tuples.
    return kind(**{name: values.get(str(kind.__annotations__[name]), (word,)) for name in required})


def test_no_event_makes_a_series() -> None:
    """Whatever happens, and whatever it happens to, the configuration alone says what there is."""
    kinds = Event.__subclasses__()
    page = Page(a_view(), events=(SetListed("people", members=0, provider="corp"),))
    before = set(page.samples())
    words = ("gmail", "google", "o1", "sqlite", "committed", "success", "people/x", 'nobody"} 1', "people")
    for kind in kinds:
        for word in words:
            for outcome in OutcomeClass:
                if kind is not TokenForgotten and kind is not SetListed:
                    page.metrics.notice(made(kind, word, outcome))
    assert len(kinds) > 15
    assert set(page.samples()) == before
    assert ("refresh_duration_seconds_count", (("provider", "corp"),)) in before


def test_counters_start_at_zero_and_count() -> None:
    """A rate needs the zero before the first event."""
    page = Page(a_view())
    assert {page.value("refreshes_total", token="gmail", outcome=outcome) for outcome in OutcomeClass} == {
        0.0
    }

    assert math.isnan(page.value("store_last_success_timestamp_seconds", store="sqlite"))
    page.metrics.notice(StoreAsked("sqlite", "failed"))
    assert math.isnan(page.value("store_last_success_timestamp_seconds", store="sqlite"))

    for _ in range(2):
        page.metrics.notice(CallFinished("gmail", "google", OutcomeClass.TRANSIENT, "503", 0.3))
        page.metrics.notice(LeaseSought("gmail", "taken"))
        page.metrics.notice(StoreAsked("sqlite", "success"))
        page.metrics.notice(CommitFinished("gmail", "sqlite", "committed"))
        page.metrics.notice(OutputWritten("gmail", "o1", "written"))

    assert page.value("refreshes_total", token="gmail", outcome="transient") == 2.0
    assert page.value("refreshes_total", token="gmail", outcome="success") == 0.0
    assert page.value("leases_total", token="gmail", outcome="taken") == 2.0
    assert page.value("store_operations_total", store="sqlite", outcome="success") == 2.0
    assert page.value("store_operations_total", store="sqlite", outcome="failed") == 1.0
    assert page.value("store_last_success_timestamp_seconds", store="sqlite") == NOW
    assert page.value("store_commits_total", store="sqlite", outcome="committed") == 2.0
    assert page.value("output_writes_total", token="gmail", output="o1", outcome="written") == 2.0


def test_states_are_one_and_zeros() -> None:
    """Exactly one state holds, and the others are there to be compared."""
    page = Page(a_view(grant_state=GrantState.IN_DOUBT, fingerprint="a" * 12, expires_at=NOW - 1))

    grant = {state: page.value("grant_state", token="gmail", state=state) for state in GrantState}
    access = {state: page.value("access_state", token="gmail", state=state) for state in AccessState}
    assert grant == {state: float(state is GrantState.IN_DOUBT) for state in GrantState}
    assert access == {state: float(state is AccessState.EXPIRED) for state in AccessState}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fingerprint": "a" * 12, "expires_at": NOW + 60, "expiry_known": True}, NOW + 60),
        ({"fingerprint": "a" * 12, "expires_at": NOW + 60, "expiry_known": False}, math.nan),
        ({"fingerprint": "a" * 12, "never_expires": True}, math.inf),
        ({}, math.nan),
    ],
)
def test_an_access_tokens_expiry_is_a_time_or_never_or_unknown(
    changes: dict[str, Any], expected: float
) -> None:
    """An assumed lifetime isn't sold as knowledge."""
    value = Page(a_view(**changes)).value("access_token_expiry_timestamp_seconds", token="gmail")

    assert value == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (OutputView("o1", required=True, fingerprint="a" * 12, expires_at=NOW + 60), NOW + 60),
        (OutputView("o1", required=True, fingerprint="a" * 12), math.nan),
        (OutputView("o1", required=True, fingerprint="a" * 12, never_expires=True), math.inf),
        (OutputView("o1", required=True, problem="it is empty"), 0.0),
    ],
)
def test_an_output_tells_what_it_really_holds(output: OutputView, expected: float) -> None:
    """Nothing usable compares as expired, so that an alert sees it."""
    page = Page(a_view(outputs=(output,)))

    value = page.value("output_token_expiry_timestamp_seconds", token="gmail", output="o1")
    assert value == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("read", "expected"), [(True, 1.0), (False, 0.0), (None, math.nan)])
def test_an_output_tells_whether_somebody_has_read_it(read: bool | None, expected: float) -> None:  # noqa: FBT001
    """Nobody is accused where it can't be told; of many together, one that nobody reads is enough."""
    output = OutputView("o1", required=True, read_since_write=read)
    value = Page(a_view(outputs=(output,))).value("output_read_since_write", token="gmail", output="o1")
    assert value == pytest.approx(expected, nan_ok=True)

    outputs = (
        output,
        OutputView("o2", required=True, read_since_write=True),
        OutputView("o3", required=True),
    )
    together = Page(a_view(token="people/a", of_set="people", aggregated=True, outputs=outputs))
    least = together.value("output_read_since_write", token="people/*", output="*")
    assert least == (0.0 if read is False else 1.0)


def test_the_other_gauges_are_the_views() -> None:
    """Unknown moments are NaN, known ones are Unix seconds."""
    known = Page(
        a_view(
            refresh_expires_at=NOW + 1,
            next_wake=NOW + 2,
            last_success=NOW + 3,
            min_validity=4.0,
            unpersisted=True,
        ),
        events=(ClockSkewSeen("google", -1.5), ConfigLoaded(accepted=False)),
    )
    unknown = Page(a_view())

    moments = ("refresh_token_expiry_timestamp", "next_refresh_timestamp", "last_refresh_success_timestamp")
    assert [known.value(f"{name}_seconds", token="gmail") for name in moments] == [NOW + 1, NOW + 2, NOW + 3]
    assert all(math.isnan(unknown.value(f"{name}_seconds", token="gmail")) for name in moments)
    assert known.value("min_validity_seconds", token="gmail") == 4.0
    assert known.value("unpersisted_rotations", token="gmail") == 1.0
    assert known.value("provider_clock_skew_seconds", provider="google") == -1.5
    assert math.isnan(unknown.value("provider_clock_skew_seconds", provider="google"))
    assert known.value("config_last_reload_successful") == 0.0
    assert unknown.value("config_last_reload_successful") == 1.0
    assert known.value("heartbeat_timestamp_seconds", worker="scheduler") == NOW
    assert known.value("build_info", version="1.2.3", python=platform.python_version()) == 1.0


def test_the_histogram_is_cumulative_from_10_ms_to_30_s() -> None:
    """A value on a bound belongs to it (le)."""
    calls = tuple(
        CallFinished("gmail", "google", OutcomeClass.SUCCESS, "", seconds)
        for seconds in (0.01, 0.3, 0.3, 99.0)
    )
    page = Page(a_view(), events=calls)

    counts = [
        page.value("refresh_duration_seconds_bucket", provider="google", le=str(bound)) for bound in BUCKETS
    ]
    assert (BUCKETS[0], BUCKETS[-1]) == (0.01, 30.0)
    assert counts == [1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3]
    assert page.value("refresh_duration_seconds_bucket", provider="google", le="+Inf") == 4
    assert page.value("refresh_duration_seconds_count", provider="google") == 4
    assert page.value("refresh_duration_seconds_sum", provider="google") == pytest.approx(99.61)


def test_a_forgotten_tokens_series_go() -> None:
    """And a token that comes back under the same name counts from zero."""
    page = Page(a_view(), events=(CallFinished("gmail", "google", OutcomeClass.SUCCESS, "", 0.1),))
    page.metrics.notice(OutputWritten("gmail", "o1", "written"))
    page.metrics.notice(TokenForgotten("gmail"))

    assert page.value("refreshes_total", token="gmail", outcome="success") == 0.0
    assert page.value("output_writes_total", token="gmail", output="o1", outcome="written") == 0.0
    page.views = ()
    assert not any(dict(labels).get("token") for _, labels in page.samples())


def test_openmetrics_is_served_to_whoever_asks_and_is_valid() -> None:
    """prometheus_client's strict parser reads it; Prometheus asks for it first."""
    page = Page(a_view(), events=(CallFinished("gmail", "google", OutcomeClass.SUCCESS, "", 0.1),))
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    body, content_type = page.metrics.render(page.views, accept)
    families = {family.name: family for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert page.metrics.render(page.views, "text/plain")[1].startswith("text/plain; version=0.0.4")
    assert {PREFIX + name for name in DEFINITIONS} <= set(families)
    assert "_created" not in body.decode()
    for name, definition in DEFINITIONS.items():
        assert families[PREFIX + name].type == definition.kind
        assert families[PREFIX + name].documentation == definition.help


def test_label_values_are_names_of_the_configuration_alone() -> None:
    """No reason, address, fingerprint or secret becomes a label."""
    secret = "sim-rt-0123456789abcdef0123"
    view = a_view(reason=secret, remedy=secret, fingerprint="f" * 12, lineage="lineage-1")
    events = (
        CallFinished("gmail", "google", OutcomeClass.DEAD, secret, 0.1),
        CommitFinished("gmail", "sqlite", "failed", secret),
        OutputWritten("gmail", "o1", "failed", secret),
        Warned("https://example.test/token", secret),
        ConfigLoaded(accepted=False, problems=(secret,)),
    )
    text = Page(view, events=events).text()

    assert not [word for word in ("sim-", "https:", "f" * 12, "lineage-1") if word in text]


def test_awkward_names_are_escaped() -> None:
    """A path may hold quotes and backslashes; the page stays readable."""
    name = 'C:\\x "y"\nz'
    page = Page(a_view(outputs=(OutputView(output=name, required=True),)))

    assert page.value("output_token_expiry_timestamp_seconds", token="gmail", output=name) == 0.0


def test_process_and_platform_are_there() -> None:
    """Memory and file descriptors of the daemon come for nothing."""
    text = Page().text()

    assert "process_resident_memory_bytes" in text
    assert "python_info" in text


def many(*names: str, **changes: Any) -> list[TokenView]:
    """Make the views of a set's accounts that are told of together."""
    return [
        a_view(
            token=f"people/{name}",
            of_set="people",
            aggregated=True,
            outputs=(
                OutputView(output=f"file:/x/{name}", required=True, fingerprint="f", expires_at=NOW + 9),
            ),
            **changes,
        )
        for name in names
    ]


def test_accounts_beyond_the_bound_are_told_of_together() -> None:
    """States and counters are sums, times the earliest that is known; no account's name becomes a label's value."""
    views = [
        *many("a", "b", grant_state=GrantState.OK, fingerprint="f", expires_at=NOW + 900, expiry_known=True),
        *many("c", grant_state=GrantState.DEAD, unpersisted=True),
        *many("d", grant_state=GrantState.OK, fingerprint="f", expires_at=NOW - 5, expiry_known=True),
        a_view(token="people/own", of_set="people", grant_state=GrantState.OK),
    ]
    events: list[Event] = [TurnEnded(view, "", noteworthy=False) for view in views]
    events += [CallFinished(f"people/{name}", "google", OutcomeClass.SUCCESS, "", 0.1) for name in "aabcd"]
    events += [OutputWritten(f"people/{name}", f"file:/x/{name}", "written") for name in ("a", "b", "own")]
    page = Page(*views, events=tuple(events))
    everybody = {"token": "people/*"}

    assert page.value("grant_state", **everybody, state="ok") == 3
    assert page.value("grant_state", **everybody, state="dead") == 1
    assert page.value("grant_state", token="people/own", state="ok") == 1
    assert page.value("access_state", **everybody, state="expired") == 1
    assert page.value("access_token_expiry_timestamp_seconds", **everybody) == NOW - 5
    assert math.isnan(page.value("last_refresh_success_timestamp_seconds", **everybody))
    assert page.value("unpersisted_rotations", **everybody) == 1
    assert page.value("output_token_expiry_timestamp_seconds", **everybody, output="*") == NOW + 9
    assert page.value("refreshes_total", **everybody, outcome="success") == 5
    assert page.value("output_writes_total", **everybody, output="*", outcome="written") == 2
    assert page.value("output_writes_total", token="people/own", output="o1", outcome="written") == 0
    assert {dict(labels).get("token") for _, labels in page.samples()} <= {None, "people/*", "people/own"}


def test_it_is_told_which_hooks_have_still_to_succeed() -> None:
    """Of a token by itself each hook, of accounts that are told of together how many; there is none late."""
    late, done = HookView("http", pending=True, problem="it was given up"), HookView("exec")
    page = Page(a_view(hooks=(late, done)), *many("a", hooks=(late, done)), *many("b", hooks=(late,)))

    assert page.value("hook_pending", token="gmail", hook="http") == 1
    assert page.value("hook_pending", token="gmail", hook="exec") == 0
    assert page.value("hook_pending", token="people/*", hook="*") == 2


def test_of_accounts_together_the_life_is_that_of_the_first_to_end() -> None:
    """An alert on a part of the life compares the two, and must not mix those of two accounts."""
    views = [
        *many("short", refresh_expires_at=NOW + 900, refresh_life=1000.0),
        *many("next", refresh_expires_at=NOW + 60, refresh_life=90_000.0),
        *many("unknown"),
    ]
    page = Page(*views)
    assert page.value("refresh_token_expiry_timestamp_seconds", token="people/*") == NOW + 60
    assert page.value("refresh_token_life_seconds", token="people/*") == 90_000.0
    assert math.isnan(Page(*many("a")).value("refresh_token_life_seconds", token="people/*"))


def test_a_hundred_accounts_more_make_no_series_more() -> None:
    """Once there are accounts beyond the bound, the page doesn't grow with them."""
    few, lots = Page(*many("a")), Page(*many(*(f"user-{number}" for number in range(100))))
    assert few.samples().keys() == lots.samples().keys()


def test_what_was_counted_together_never_falls() -> None:
    """An account that leaves takes nothing from the sum, and the set takes everything with it."""
    [view] = many("a")
    page = Page(view)
    for event in (
        SetListed("people", members=1),
        TurnEnded(view, "", noteworthy=False),
        CallFinished("people/a", "google", OutcomeClass.SUCCESS, "", 0.1),
        TokenForgotten("people/a"),
    ):
        page.metrics.notice(event)
    assert page.value("refreshes_total", token="people/*", outcome="success") == 1
    page.metrics.notice(TokenForgotten("people"))
    assert page.value("refreshes_total", token="people/*", outcome="success") == 0
    assert not [name for name, _ in page.samples() if name.startswith("set_")]


def test_a_set_tells_how_many_accounts_it_serves_and_since_when() -> None:
    """An alert on the time of the last list fires while the source of a set fails."""
    listed = SetListed("people", members=7, refused=(("*", "stands for all"),), listed_at=NOW - 60)
    page = Page(events=(listed,))
    assert page.value("set_members", set="people") == 7
    assert page.value("set_refused_accounts", set="people") == 1
    assert page.value("set_last_listed_timestamp_seconds", set="people") == NOW - 60
    failing = Page(events=(SetListed("people", members=0, problem="away"),))
    assert math.isnan(failing.value("set_last_listed_timestamp_seconds", set="people"))


def test_a_hostile_name_stays_within_its_label() -> None:
    """Quotes, backslashes and braces in an account's name end no label."""
    name = 'people/"} 1\\'
    page = Page(a_view(token=name, of_set="people"))
    assert page.value("min_validity_seconds", token=name) == 0


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text;version=1.0.0"])
def test_a_page_with_everything_is_as_prometheus_wants_it(accept: str) -> None:
    """Sets, hooks, hostile names, things never heard of: the linter is silent, and the parser reads on."""
    hooks = (HookView('exec "x"\n'), HookView("http"))
    views = (a_view(hooks=hooks), *many("a", hooks=hooks), a_view(token='people/"} 1 \\', of_set="people"))
    events = (SetListed("people", members=2, provider="corp"), ClockSkewSeen("corp", -1.5))
    page = Page(*views, events=events)
    text = page.text(accept)
    if accept == "text/plain":
        assert promtool.complaints_about_page(text) == ""
    else:
        found = [*parse_openmetrics(text)]  # type: ignore[no-untyped-call]
        assert {PREFIX + name for name in DEFINITIONS} <= {family.name for family in found}
    tokens = {dict(labels).get("token") for _, labels in page.samples()}
    assert tokens == {None, "gmail", "people/*", 'people/"} 1 \\'}
