"""Metrics: an observer that counts, and a page that is rendered from the tokens' views when it is asked for.

One custom collector renders everything: children of prometheus_client cost 21 KiB a token. `DEFINITIONS` is
the one source of names, labels and help; docs/reference/metrics.md is written from it. Label values are names
from the configuration, words of this file, and of each set as many accounts' names as the configuration allows: so it
bounds the number of series.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from sidecar.config.members import ALL, SLASH
from sidecar.events import (
    CallFinished,
    ClockSkewSeen,
    CommitFinished,
    ConfigLoaded,
    Event,
    HookRan,
    LeaseSought,
    OutputView,
    OutputWritten,
    SetListed,
    StoreAsked,
    TokenForgotten,
    TokenView,
    TurnEnded,
)
from sidecar.tokens import AccessState, GrantState, OutcomeClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from enum import StrEnum

    from sidecar.clock import Clock
    from sidecar.pulse import Heartbeats

PREFIX = "token_sidecar_"
UNKNOWN = float("nan")
NEVER = float("inf")
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
COMMIT_OUTCOMES = ("committed", "failed", "superseded")
WRITE_OUTCOMES = ("written", "unchanged", "failed")
STORE_OUTCOMES = ("success", "failed")
LEASE_OUTCOMES = ("taken", "elsewhere", "failed")
HOOK_OUTCOMES = ("done", "unneeded", "failed")


class Definition(msgspec.Struct, frozen=True):
    """One metric: what it is called and what it means."""

    name: str
    """Without the prefix, and without the suffix that its kind adds in the exposition."""
    kind: str
    """gauge | counter | histogram | info."""
    help: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The name as queries use it; a histogram's series add `_bucket`, `_sum` and `_count`."""
        return PREFIX + self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


DEFINITIONS = {
    definition.name: definition
    for definition in (
        Definition(
            "access_token_expiry_timestamp_seconds",
            "gauge",
            "When the access token expires, as Unix time; +Inf if never, NaN while unknown or absent.",
            ("token",),
        ),
        Definition(
            "refresh_token_expiry_timestamp_seconds",
            "gauge",
            "When a human has to consent again at the latest, as Unix time; NaN while unknown.",
            ("token",),
        ),
        Definition(
            "refresh_token_life_seconds",
            "gauge",
            "How long the refresh token has in all, from where its end is counted; NaN while unknown.",
            ("token",),
        ),
        Definition(
            "output_token_expiry_timestamp_seconds",
            "gauge",
            "When the token expires that the output really holds, as Unix time; +Inf if never, "
            "NaN if unknown, 0 if there is none that could be used.",
            ("token", "output"),
        ),
        Definition(
            "output_read_since_write",
            "gauge",
            "1 if somebody has read the output since it was last written, 0 if nobody has, "
            "NaN where that can't be told.",
            ("token", "output"),
        ),
        Definition(
            "next_refresh_timestamp_seconds",
            "gauge",
            "When the token is looked after next, as Unix time; NaN while nothing is planned.",
            ("token",),
        ),
        Definition(
            "last_refresh_success_timestamp_seconds",
            "gauge",
            "When the provider last gave an access token, as Unix time; NaN if it never did.",
            ("token",),
        ),
        Definition(
            "min_validity_seconds",
            "gauge",
            "Validity that readers are promised, as in force for the present access token.",
            ("token",),
        ),
        Definition(
            "access_state",
            "gauge",
            "1 for what a reader may do with the access token now, 0 for the other states.",
            ("token", "state"),
        ),
        Definition(
            "grant_state",
            "gauge",
            "1 for the state that the grant is in, 0 for the others.",
            ("token", "state"),
        ),
        Definition(
            "unpersisted_rotations",
            "gauge",
            "1 while a rotated refresh token is not in the store yet: "
            "losing state_dir now would lose the grant.",
            ("token",),
        ),
        Definition(
            "refreshes",
            "counter",
            "Calls to the provider by what they amounted to.",
            ("token", "outcome"),
        ),
        Definition(
            "refresh_duration_seconds",
            "histogram",
            "How long calls to the provider took, whatever their outcome.",
            ("provider",),
        ),
        Definition(
            "leases",
            "counter",
            "Leases that were asked for before a call: had, taken by another daemon first, "
            "or not given by the store.",
            ("token", "outcome"),
        ),
        Definition(
            "store_last_success_timestamp_seconds",
            "gauge",
            "When the store last answered, as Unix time; NaN before the first time.",
            ("store",),
        ),
        Definition(
            "store_operations",
            "counter",
            "Reads, writes and claims of records, by whether the store answered.",
            ("store", "outcome"),
        ),
        Definition(
            "store_commits",
            "counter",
            "Commits to the store by how they ended.",
            ("store", "outcome"),
        ),
        Definition(
            "output_writes",
            "counter",
            "Publications by how they ended.",
            ("token", "output", "outcome"),
        ),
        Definition(
            "hook_runs",
            "counter",
            "Hooks that were run for a new token, by how they ended; `unneeded`: somebody had told of it before.",
            ("token", "hook", "outcome"),
        ),
        Definition(
            "hook_pending",
            "gauge",
            "1 while the hook has still to succeed for the present token, whether it waits, fails or was given up; "
            "0 once it has, or somebody else had told.",
            ("token", "hook"),
        ),
        Definition(
            "provider_clock_skew_seconds",
            "gauge",
            "How far the provider's clock was ahead of ours in its last answer; NaN before the first.",
            ("provider",),
        ),
        Definition(
            "config_last_reload_successful",
            "gauge",
            "1 if the configuration was accepted when it was last read, 0 if it was refused.",
        ),
        Definition(
            "heartbeat_timestamp_seconds",
            "gauge",
            "When the worker last showed that it works, as Unix time.",
            ("worker",),
        ),
        Definition(
            "set_members",
            "gauge",
            "How many accounts of the set are served.",
            ("set",),
        ),
        Definition(
            "set_refused_accounts",
            "gauge",
            "How many accounts of the set can't be served, because of their names.",
            ("set",),
        ),
        Definition(
            "set_last_listed_timestamp_seconds",
            "gauge",
            "When it was last found out who the accounts of the set are, as Unix time; NaN before the first time.",
            ("set",),
        ),
        Definition("build", "info", "The version that runs, and its Python.", ("version", "python")),
    )
}


class Metrics(Collector):
    """Counts what happens, and renders the page."""

    def __init__(self, *, clock: Clock, heartbeats: Heartbeats, store: str, version: str) -> None:
        """`store` is the store's kind: its series exist before anything has happened."""
        self._clock = clock
        self._heartbeats = heartbeats
        self._store = store
        self._version = version
        self._refreshes: Counter[tuple[str, ...]] = Counter()
        self._writes: Counter[tuple[str, ...]] = Counter()
        self._hooks: Counter[tuple[str, ...]] = Counter()
        self._leases: Counter[tuple[str, ...]] = Counter()
        self._commits: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._store_answered_at = UNKNOWN
        self._durations: dict[str, _Histogram] = {}
        self._skews: dict[str, float] = {}
        self._config_accepted = True
        self._sets: dict[str, SetListed] = {}
        self._alone: set[str] = set()
        """Tokens that have series of their own."""
        self._views: tuple[TokenView, ...] = ()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def notice(self, event: Event) -> None:  # noqa: C901, PLR0912 - one case for each event
        """Count one event."""
        match event:
            case TurnEnded():
                if not event.view.aggregated:
                    self._alone.add(event.view.token)
            case CallFinished():
                self._refreshes[self._counted(event.token), event.outcome.value] += 1
                self._durations.setdefault(event.provider, _Histogram()).observe(event.seconds)
            case LeaseSought():
                self._leases[self._counted(event.token), event.outcome] += 1
            case StoreAsked():
                self._operations[event.outcome] += 1
                if event.outcome == "success":
                    self._store_answered_at = self._clock.wall()
            case CommitFinished():
                self._commits[event.outcome] += 1
            case OutputWritten():
                token = self._counted(event.token)
                self._writes[token, event.output if token == event.token else ALL, event.outcome] += 1
            case HookRan():
                token = self._counted(event.token)
                self._hooks[token, event.hook if token == event.token else ALL, event.outcome] += 1
            case ClockSkewSeen():
                self._skews[event.provider] = event.seconds
            case ConfigLoaded():
                self._config_accepted = event.accepted
            case SetListed():
                self._sets[event.of] = event
            case TokenForgotten():
                self._forget(event.token)
            case _:
                pass

    def _counted(self, token: str) -> str:
        """Name the series that count for a token: its own, or those of all that are told of together."""
        of, slash, _ = token.partition(SLASH)
        return token if not slash or token in self._alone else f"{of}{SLASH}{ALL}"

    def _forget(self, token: str) -> None:
        # Of one of many, what was counted stays: a sum of counters must not fall.
        gone = {token, f"{token}{SLASH}{ALL}"} if token in self._sets else {token}
        for counter in (self._refreshes, self._leases, self._writes, self._hooks):
            for key in [key for key in counter if key[0] in gone]:
                del counter[key]
        self._sets.pop(token, None)
        self._alone.discard(token)

    def render(self, views: Iterable[TokenView], accept: str = "") -> tuple[bytes, str]:
        """Render the page of these tokens; return it with its content type.

        `accept` is the request's Accept header: Prometheus' text format, or OpenMetrics for who asks for it.
        """
        self._views = tuple(views)
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterator[Metric]:
        """Name nothing at registration; nothing else collects under our prefix."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Go through all families, empty ones included, in the order of `DEFINITIONS`."""
        samples = self._samples(self._clock.wall())
        for name, definition in DEFINITIONS.items():
            family = _family(definition)
            for labels, value in samples.get(name, ()):
                if isinstance(value, _Histogram):
                    family.add_metric(labels, value.buckets(), value.sum)
                elif definition.kind == "info":
                    family.add_metric([], dict(zip(definition.labels, labels, strict=True)))
                else:
                    family.add_metric(labels, value)
            yield family

    def _samples(self, now: float) -> dict[str, list[tuple[tuple[str, ...], Any]]]:
        labels = sorted({_label(view) for view in self._views})
        outputs = sorted(
            {(_label(view), _part(view, one.output)) for view in self._views for one in view.outputs}
        )
        hooks = sorted({(_label(view), _part(view, one.hook)) for view in self._views for one in view.hooks})
        samples: dict[str, list[tuple[tuple[str, ...], Any]]] = {
            name: _together((((_label(view),), gauge(view)) for view in self._views), whole)
            for name, (gauge, whole) in _GAUGES.items()
        }
        samples["access_state"] = _counts(
            labels, AccessState, ((_label(view), view.access_state(now)) for view in self._views)
        )
        samples["grant_state"] = _counts(
            labels, GrantState, ((_label(view), view.grant_state) for view in self._views)
        )
        held = (
            ((_label(view), _part(view, output.output)), _held_until(output))
            for view in self._views
            for output in view.outputs
        )
        samples["output_token_expiry_timestamp_seconds"] = _together(held, _earliest)
        read = (
            ((_label(view), _part(view, output.output)), _or_unknown(output.read_since_write))
            for view in self._views
            for output in view.outputs
        )
        samples["output_read_since_write"] = _together(read, _earliest)
        pending = (
            ((_label(view), _part(view, hook.hook)), float(hook.pending))
            for view in self._views
            for hook in view.hooks
        )
        samples["hook_pending"] = _together(pending, sum)
        tokens = [(label,) for label in labels]
        samples["refreshes"] = _by_outcome(self._refreshes, tokens, OutcomeClass)
        samples["leases"] = _by_outcome(self._leases, tokens, LEASE_OUTCOMES)
        samples["output_writes"] = _by_outcome(self._writes, outputs, WRITE_OUTCOMES)
        samples["hook_runs"] = _by_outcome(self._hooks, hooks, HOOK_OUTCOMES)
        listed = [one for _, one in sorted(self._sets.items())]
        samples["set_members"] = [((one.of,), float(one.members)) for one in listed]
        samples["set_refused_accounts"] = [((one.of,), float(len(one.refused))) for one in listed]
        samples["set_last_listed_timestamp_seconds"] = [
            ((one.of,), _or_unknown(one.listed_at)) for one in listed
        ]
        samples["store_commits"] = [
            ((self._store, outcome), self._commits[outcome]) for outcome in COMMIT_OUTCOMES
        ]
        samples["store_operations"] = [
            ((self._store, outcome), self._operations[outcome]) for outcome in STORE_OUTCOMES
        ]
        samples["store_last_success_timestamp_seconds"] = [((self._store,), self._store_answered_at)]
        # Of those that are configured: what a token was renewed at before is no series for ever.
        providers = sorted({view.provider for view in self._views} | {one.provider for one in listed})
        samples["refresh_duration_seconds"] = [
            ((provider,), self._durations.get(provider, _Histogram())) for provider in providers
        ]
        samples["provider_clock_skew_seconds"] = [
            ((provider,), self._skews.get(provider, UNKNOWN)) for provider in providers
        ]
        samples["config_last_reload_successful"] = [((), float(self._config_accepted))]
        stamped = self._heartbeats.stamped_at()
        samples["heartbeat_timestamp_seconds"] = [
            ((worker,), stamped.get(worker, UNKNOWN)) for worker in sorted(self._heartbeats.ages())
        ]
        samples["build"] = [((self._version, platform.python_version()), 1.0)]
        return samples


class _Histogram:
    """Counts by upper bound, cumulative only when rendered."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(BUCKETS, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        total, pairs = 0, []
        for bound, count in zip((*BUCKETS, NEVER), self._counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound == NEVER else str(bound), float(total)))
        return pairs


def _family(definition: Definition) -> Any:
    name = PREFIX + definition.name
    match definition.kind:
        case "counter":
            return CounterMetricFamily(name, definition.help, labels=definition.labels)
        case "histogram":
            return HistogramMetricFamily(name, definition.help, labels=definition.labels)
        case "info":
            return InfoMetricFamily(name, definition.help, labels=())
        case _:
            return GaugeMetricFamily(name, definition.help, labels=definition.labels)


def _or_unknown(value: float | None) -> float:
    return UNKNOWN if value is None else float(value)


def _expires(view: TokenView) -> float:
    if not view.fingerprint:
        return UNKNOWN
    if view.never_expires:
        return NEVER
    return _or_unknown(view.expires_at) if view.expiry_known else UNKNOWN


def _held_until(output: OutputView) -> float:
    if output.fingerprint is None:
        return 0.0
    return NEVER if output.never_expires else _or_unknown(output.expires_at)


def _label(view: TokenView) -> str:
    return f"{view.of_set}{SLASH}{ALL}" if view.aggregated else view.token


def _part(view: TokenView, name: str) -> str:
    """Name an output or hook of a token; those of many tokens are told of together, too."""
    return ALL if view.aggregated else name


def _earliest(values: list[float]) -> float:
    """Of several moments, take the first that is known."""
    return min((value for value in values if not math.isnan(value)), default=UNKNOWN)


def _together(
    pairs: Iterable[tuple[tuple[str, ...], Any]], whole: Callable[[list[Any]], float]
) -> list[tuple[tuple[str, ...], Any]]:
    """Make one sample of all that have the same labels."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for labels, value in pairs:
        found.setdefault(labels, []).append(value)
    return [(labels, whole(values)) for labels, values in found.items()]


def _by_outcome(
    counter: Counter[tuple[str, ...]], places: Iterable[tuple[str, ...]], outcomes: Iterable[str]
) -> list[tuple[tuple[str, ...], Any]]:
    """Make one sample of each outcome at each place, of those that never came as well."""
    return [((*place, str(outcome)), counter[(*place, outcome)]) for place in places for outcome in outcomes]


def _counts(
    labels: Iterable[str], states: Iterable[StrEnum], pairs: Iterable[tuple[str, StrEnum]]
) -> list[tuple[tuple[str, ...], Any]]:
    """Count how many are in which state."""
    found = Counter(pairs)
    return [((label, state.value), float(found[label, state])) for label in labels for state in states]


_GAUGES: dict[str, tuple[Callable[[TokenView], Any], Callable[[list[Any]], float]]] = {
    "access_token_expiry_timestamp_seconds": (_expires, _earliest),
    "refresh_token_expiry_timestamp_seconds": (lambda view: _or_unknown(view.refresh_expires_at), _earliest),
    "refresh_token_life_seconds": (
        lambda view: (_or_unknown(view.refresh_expires_at), _or_unknown(view.refresh_life)),
        lambda ends: min((end for end in ends if not math.isnan(end[0])), default=(UNKNOWN, UNKNOWN))[1],
    ),
    "next_refresh_timestamp_seconds": (lambda view: _or_unknown(view.next_wake), _earliest),
    "last_refresh_success_timestamp_seconds": (lambda view: _or_unknown(view.last_success), _earliest),
    "min_validity_seconds": (lambda view: view.min_validity, _earliest),
    "unpersisted_rotations": (lambda view: float(view.unpersisted), sum),
}
"""Metric → what one token has to say, and the value that follows from what one or many of them said."""

_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("access_state", "state"): tuple(AccessState),
    ("grant_state", "state"): tuple(GrantState),
    ("refreshes", "outcome"): tuple(OutcomeClass),
    ("leases", "outcome"): LEASE_OUTCOMES,
    ("store_operations", "outcome"): STORE_OUTCOMES,
    ("store_commits", "outcome"): COMMIT_OUTCOMES,
    ("output_writes", "outcome"): WRITE_OUTCOMES,
    ("hook_runs", "outcome"): HOOK_OUTCOMES,
}


def reference() -> str:
    """Write docs/reference/metrics.md."""
    rows = []
    for definition in DEFINITIONS.values():
        labels = []
        for label in definition.labels:
            values = _VALUES.get((definition.name, label))
            labels.append(f"`{label}`" + (f" ({', '.join(values)})" if values else ""))
        name, kind = definition.family, "gauge" if definition.kind == "info" else definition.kind
        rows.append(f"| `{name}` | {kind} | {', '.join(labels) or 'none'} | {definition.help} |")
    return _PAGE.format(rows="\n".join(rows), buckets=", ".join(f"{bound:g}" for bound in BUCKETS))


_PAGE = """\
# Metrics

<!-- Written from sidecar/observers/metrics.py by `make reference`. -->

`/metrics` speaks Prometheus' text format, and OpenMetrics to whoever asks for it in `Accept`. `token` is a
token's name in the configuration, or `SET/ACCOUNT`; `provider` is a profile's name (`inline` for one without).
`output` says where a token goes: `file:PATH`, `secret:NAMESPACE/NAME/KEY`, `aws:NAME`, or `sql:` with the database's
host and name, table, column and the `where` of the row. `hook` says who is told: its `name`, or what it does and to
whom, such as `http:POST HOST:PORT`: never a path or a query, which may be a secret. No label holds an error's text or
a secret.

| Metric | Type | Labels | Meaning |
|---|---|---|---|
{rows}

- Every series of a configured token exists from its first scrape on, counters at 0. There are no `_created`
  series.
- Of each [set](../howto/many-accounts.md), `max_series` accounts have series of their own, each for as long as it is
  there: those that came first. All others are told of together as `token="SET/*"`, with `output="*"` and `hook="*"`:
  states, `unpersisted_rotations`, `hook_pending` and counters are sums, and of every time, of `min_validity_seconds`
  and of `output_read_since_write` it is the earliest or least that is known; `refresh_token_life_seconds` is of the one
  whose end is earliest. So an alert on an expiry fires when one of them is affected; which one it is,
  [`/status`](http.md) and `token-sidecar status` tell. What was counted for an account that is gone stays counted.
- `output_read_since_write` is known of files alone, and NaN until a first read was seen:
  [what it tells, and what it can't](../explanation/health.md#read-no-probe-but-a-metric).
- Times are moments, never ages: `… - time()` stays right when the daemon hangs.
- Files are read back at each scrape, so `output_token_expiry_timestamp_seconds` tells what a reader would get, whoever
  wrote it. Of outputs behind a network it tells what was seen last, a minute ago at most unless they are in trouble.
- NaN compares false with everything: an alert on an expiry doesn't fire while it is unknown.
- `refresh_duration_seconds` has buckets of {buckets} seconds.
- Beside these there are `process_*` (Linux only) and `python_info`, as every Python program has them.
"""
