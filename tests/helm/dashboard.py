"""The dashboard as code: what `make chart` writes to helm/token-sidecar/files/dashboard.json.

Labels that only Kubernetes has (`namespace`, `pod`) may be missing everywhere. Calls, commits and writes are rare
beside Prometheus' scrapes (a token of an hour is refreshed every 45 minutes), so they are counted over an hour: a rate
over a few scrapes would show lonely spikes. Graphs have ten lines at most, and the `SET/*` of many accounts is a row
like others.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from sidecar.tokens import GrantState
from tests.helm.grafana import Annotation, Built, Column, Panels, colored, says, unit, variable

PLACE = ("namespace", "job", "pod", "instance")
"""Where a series comes from; the variables of these names choose."""

TOKEN = "namespace, job, token"
"""What is one row: a token's replicas are told of together, by the worst of them."""

REPLICA = "namespace, job, replica"

URGENCY = {
    GrantState.OK: "green",
    GrantState.RETRYING: "yellow",
    GrantState.IN_DOUBT: "orange",
    GrantState.UNSEEDED: "orange",
    GrantState.MISCONFIGURED: "red",
    GrantState.UNPERSISTED: "red",
    GrantState.DEAD: "dark-red",
}
"""States by urgency: of several replicas or accounts the most urgent is shown. And their colors."""

PLAIN = unit("short", 0)
ROUGHLY = unit("short", 1)
SECONDS = unit("s", 1)
# An output without a usable token "expires" in 1970.
TIME_LEFT = (*SECONDS, *says({"Infinity": ("never expires", "green")}, nothing_below=-1e9))

NOBODY = "No token-sidecar is scraped here."


def every(metric: str, *more: str, over: str = "") -> str:
    """Select a metric at the chosen places; `over` is how far to look back."""
    chosen = [f'{label}=~"${label}"' for label in PLACE]
    return f"{metric}{{{','.join([*chosen, *more])}}}" + (f"[{over}]" if over else "")


def daemon(metric: str, *more: str, over: str = "") -> str:
    """Select a metric of ours that has no token."""
    return every(f"token_sidecar_{metric}", *more, over=over)


def token(metric: str, *more: str, over: str = "") -> str:
    """Select a metric of the chosen tokens."""
    return daemon(metric, 'token=~"$token"', *more, over=over)


def ours(expr: str) -> str:
    """Of what all programs tell of themselves, leave what our daemons do."""
    return f"({expr} and on ({', '.join(PLACE)}) {daemon('build_info')})"


def named(expr: str) -> str:
    """Give each series the label `replica`: its pod, or where it is scraped if there is none."""
    by_address = f'label_replace({expr}, "replica", "$1", "instance", "(.*)")'
    return f'label_replace({by_address}, "replica", "$1", "pod", "(.+)")'


def per_token(how: str, expr: str) -> str:
    """Make one value of a token's replicas and outputs."""
    return f"{how} by ({TOKEN}) ({expr})"


def per_replica(how: str, expr: str, *more: str) -> str:
    """Make one value of a replica's tokens."""
    return f"{how} by ({', '.join([REPLICA, *more])}) ({named(expr)})"


def ten_most(expr: str) -> str:
    """Leave the replicas where it is most, by name."""
    return f"topk(10, {named(expr)})"


def in_an_hour(counter: str, *by: str) -> str:
    """Count over the hour before each moment."""
    return f"sum by ({', '.join(by)}) (increase({counter}[1h]))"


def counted(expr: str) -> str:
    """Count series; none are zero, and not nothing."""
    return f"count({expr}) or vector(0)"


def _left(metric: str) -> str:
    return f"{token(metric)} - time()"


def _tokens(panels: Panels) -> None:
    held = per_token("min", _left("access_token_expiry_timestamp_seconds"))
    left = f"({per_token('min', _left('output_token_expiry_timestamp_seconds'))} or {held})"
    states = [
        f"{urgency} * ({token('grant_state', _state(state))} > bool 0)"
        for urgency, state in enumerate(URGENCY)
    ]
    words = {str(urgency): (state.value, color) for urgency, (state, color) in enumerate(URGENCY.items())}
    panels.table(
        "Tokens, the least time left first",
        "How long what applications read is still valid, the worst of its outputs and replicas: with less than they "
        "are promised a refresh is overdue, see its state, and docs/runbooks/tokensidecarrefreshoverdue.md.",
        [
            Column("Time left", left, TIME_LEFT),
            Column(
                "Of the promise",
                f"{left} / {per_token('max', token('min_validity_seconds'))}",
                (
                    *unit("suffix:times", 1),
                    *says({"Infinity": ("never expires", "green")}, nothing_below=-1e6),
                    *colored("red", (0, "orange"), (1, "green")),
                ),
            ),
            Column(
                "State", per_token("max", " or ".join(states)), (*says(words), *colored("green", (1, "red")))
            ),
            Column("The daemon holds", held, TIME_LEFT),
            Column(
                "Application has read it",
                per_token("min", token("output_read_since_write")),
                (
                    *says({"1": ("yes", "green"), "0": ("not yet", "orange")}),
                    *colored("orange", (1, "green")),
                ),
            ),
            Column("Looked after in", per_token("min", _left("next_refresh_timestamp_seconds")), SECONDS),
            Column("Refreshed ago", _refreshed_ago(), SECONDS),
            Column("Replicas", per_token("count", token("min_validity_seconds")), PLAIN),
        ],
        keys=("namespace", "job", "token"),
        none=NOBODY,
        least="Time left",
        height=10,
    )


def _state(state: GrantState) -> str:
    return f'state="{state.value}"'


def _refreshed_ago() -> str:
    return f"time() - {per_token('max', token('last_refresh_success_timestamp_seconds'))}"


def _numbers(panels: Panels) -> None:
    until = per_token("min", _left("refresh_token_expiry_timestamp_seconds"))
    known = f"last_over_time({daemon('build_info', over='1d')})"
    failed = daemon("store_operations_total", 'outcome="failed"', over="10m")
    panels.number(
        "Dead grants",
        "The provider refused them, and somebody has to consent again: see docs/runbooks/tokensidecargrantdead.md.",
        f"sum({per_token('max', token('grant_state', _state(GrantState.DEAD)))}) or vector(0)",
    )
    panels.number(
        "Consents due in a week",
        "Grants that end within seven days: plan the consent, see docs/runbooks/tokensidecarconsentdue.md.",
        counted(f"{until} < 7 * 86400"),
        bad="orange",
    )
    panels.number(
        "Rotations in memory only",
        "Refresh tokens that the store hasn't taken: repair it before any pod goes, see "
        "docs/runbooks/tokensidecarunpersisted.md.",
        f"sum({per_token('max', token('unpersisted_rotations'))}) or vector(0)",
    )
    panels.number(
        "Failed store operations",
        "In ten minutes: see whether the store can be reached, and docs/runbooks/tokensidecarstoreunreachable.md.",
        f"round(sum(increase({failed}))) or vector(0)",
        bad="orange",
    )
    panels.number(
        "Configurations refused",
        "Replicas that go on with the one before: `token-sidecar check` names what is wrong, see "
        "docs/runbooks/tokensidecarconfigrejected.md.",
        counted(f"{daemon('config_last_reload_successful')} == 0"),
    )
    panels.number(
        "Replicas not scraped",
        "Where there were daemons within a day: see whether they run, and docs/runbooks/tokensidecardown.md.",
        counted(f"{every('up')} == 0 and on (namespace, job) {known}"),
    )


def _people(panels: Panels) -> None:
    end = f"({per_token('min', token('refresh_token_expiry_timestamp_seconds'))} < Inf)"
    left = f"({end} - time())"
    needy = token("grant_state", 'state!~"ok|retrying|in_doubt"')
    words = {state.value: (state.value, color) for state, color in URGENCY.items()}
    panels.row("People")
    panels.table(
        "Grants that need somebody",
        "What no waiting repairs, of sets how many accounts: `token-sidecar status` has the reason and the command.",
        [Column("Grants", f"max by ({TOKEN}, state) ({needy}) > 0", PLAIN)],
        keys=("namespace", "job", "token", "state"),
        none="Nobody is needed.",
        least="State",
        looks={"State": (*says(words), *colored("transparent"))},
        span=10,
    )
    panels.table(
        "Until somebody has to consent again",
        "Of each grant whose end is known: `token-sidecar login TOKEN` puts it off at any time, without a restart.",
        [
            Column("Left", left, SECONDS),
            Column(
                "Of its life",
                f"{left} / {per_token('max', token('refresh_token_life_seconds'))}",
                (*unit("percentunit", 0), *colored("red", (0, "orange"), (0.143, "green"))),
            ),
            Column("Until", f"{end} * 1000", unit("dateTimeAsIso", 0)),
        ],
        keys=("namespace", "job", "token"),
        none="No end of a grant is known.",
        least="Left",
        span=14,
    )


def _refreshes(panels: Panels) -> None:
    in_outputs = f"(0 < {token('output_token_expiry_timestamp_seconds')} < Inf) - time()"
    failed = token("refreshes_total", 'outcome!="success"', over="$__range")
    answers = f"sum by (le, provider) (increase({daemon('refresh_duration_seconds_bucket', over='1h')}))"
    skew = named(daemon("provider_clock_skew_seconds"))
    panels.row("Refreshes")
    panels.graph(
        "Time left, the ten tokens with the least",
        "Each tooth is a refresh: a line that reaches 0 is a token that expired before its application's eyes.",
        {"{{namespace}} {{token}}": f"bottomk(10, {per_token('min', in_outputs)})"},
        unit="s",
        none="No output has a token whose end is known.",
        from_zero=False,
    )
    panels.graph(
        "Grants by state",
        "Each grant once, however many its replicas: for whatever isn't ok for long see the table of tokens.",
        {"{{state}}": f"sum by (state) (max by ({TOKEN}, state) ({token('grant_state')}))"},
        unit="short",
        none=NOBODY,
    )
    panels.graph(
        "Calls to providers in the hour before",
        "By what they amounted to: `transient` and `in_doubt` that last are the provider's trouble or the network's, "
        "`misconfigured` is yours, see docs/runbooks/tokensidecarprovidererrors.md.",
        {"{{outcome}}": in_an_hour(token("refreshes_total"), "outcome")},
        unit="short",
        none="No provider was called.",
    )
    panels.graph(
        "How long providers take",
        "In the hour before: a slow one needs a longer `request_timeout`, and tokens an earlier `refresh_at`.",
        {
            "{{provider}}, half within": f"histogram_quantile(0.5, {answers})",
            "{{provider}}, 95 % within": f"histogram_quantile(0.95, {answers})",
        },
        unit="s",
        none="No provider was called in the hour before.",
    )
    panels.table(
        "Calls without success",
        "In the time that is shown, the fifty worst: `token-sidecar status` has the last one's reason, the log each.",
        [Column("Calls", f"topk(50, sum by ({TOKEN}, outcome) (increase({failed})) > 0)", ROUGHLY)],
        keys=("namespace", "job", "token", "outcome"),
        none="Every call succeeded.",
        greatest="Calls",
        span=12,
    )
    panels.graph(
        "Providers' clocks",
        "How far they are ahead of ours, the ten farthest: repair the clock of the host that differs, see "
        "docs/runbooks/tokensidecarclockskew.md.",
        {"{{replica}} {{provider}}": f"{skew} and topk(10, abs({skew}))"},
        unit="s",
        none="No provider has answered yet.",
        from_zero=False,
    )


def _stores(panels: Panels) -> None:
    operations = daemon("store_operations_total", over="$__rate_interval")
    panels.row("Store and leases")
    panels.graph(
        "Since the store answered",
        "The ten replicas for which it is longest: above two minutes none of them can refresh, see "
        "docs/runbooks/tokensidecarstoreunreachable.md.",
        {"{{replica}} {{store}}": ten_most(f"time() - {daemon('store_last_success_timestamp_seconds')}")},
        unit="s",
        none="No store has answered yet.",
    )
    panels.graph(
        "Store operations",
        "A second, by how they ended: `failed` ones are tried again, and tokens live on meanwhile; if they last, see "
        "whether the store can be reached.",
        {"{{store}} {{outcome}}": f"sum by (store, outcome) (rate({operations}))"},
        unit="ops",
        none="No store is used.",
    )
    panels.graph(
        "Commits in the hour before",
        "By how they ended: `superseded` means that somebody else was first; after a `failed` one see the rotations in "
        "memory only.",
        {"{{store}} {{outcome}}": in_an_hour(daemon("store_commits_total"), "store", "outcome")},
        unit="short",
        none="No store is used.",
    )
    panels.graph(
        "Leases in the hour before",
        "`taken` by a replica shown here, or lost to one `elsewhere`: only `failed` asks for a look at the store.",
        {"{{outcome}}": in_an_hour(token("leases_total"), "outcome")},
        unit="short",
        none=NOBODY,
    )


def _replicas(panels: Panels) -> None:
    refreshed = token("refreshes_total", 'outcome="success"', over="$__range")
    leased = token("leases_total", 'outcome="taken"', over="$__range")
    lately = token("refreshes_total", 'outcome="success"', over="1h")
    panels.row("Replicas")
    panels.table(
        "Replicas",
        "How many of the chosen tokens each serves, and how often it refreshed one in the time that is shown: "
        "choose a token to see who has it. A release should have one version, and accepted configurations alone.",
        [
            Column("", per_replica("max", daemon("build_info"), "version")),
            Column("Tokens", per_replica("count", token("min_validity_seconds")), PLAIN),
            Column("Refreshes", per_replica("sum", f"increase({refreshed})"), ROUGHLY),
            Column("Leases", per_replica("sum", f"increase({leased})"), ROUGHLY),
            Column(
                "Configuration",
                per_replica("min", daemon("config_last_reload_successful")),
                (*says({"1": ("accepted", "green"), "0": ("refused", "red")}), *colored("red", (1, "green"))),
            ),
            Column(
                "Oldest heartbeat",
                per_replica("max", f"time() - {daemon('heartbeat_timestamp_seconds')}"),
                (*SECONDS, *colored("green", (60, "red"))),
            ),
            Column(
                "Up for",
                per_replica("max", f"time() - {ours(every('process_start_time_seconds'))}"),
                SECONDS,
            ),
        ],
        keys=("namespace", "job", "replica", "version"),
        none=NOBODY,
        least="Replica",
        span=16,
    )
    panels.graph(
        "Who refreshes",
        "Successful calls in the hour before, the ten replicas with the most: if one alone never does, see whether it "
        "reaches store and provider.",
        {"{{replica}}": f"topk(10, sum by (replica) ({named(f'increase({lately})')}))"},
        unit="short",
        none=NOBODY,
        span=8,
    )


def _outputs(panels: Panels) -> None:
    unread = f"max by ({TOKEN}, output) ({token('output_read_since_write')} == 0) + 1"
    outputs = f"increase({token('output_writes_total', _FAILED, over='$__range')})"
    hooks = f"increase({token('hook_runs_total', _FAILED, over='$__range')})"
    failures = (
        f'label_replace({outputs}, "where", "$1", "output", "(.*)") '
        f'or label_replace({hooks}, "where", "$1", "hook", "(.*)")'
    )
    panels.row("Outputs, hooks and sets")
    panels.graph(
        "Writes to outputs in the hour before",
        "By how they ended: after a `failed` one the token before stays where it was, see the table beside it.",
        {"{{outcome}}": in_an_hour(token("output_writes_total"), "outcome")},
        unit="short",
        none="No token has an output.",
        span=8,
    )
    panels.graph(
        "Hooks in the hour before",
        "By how they ended: after a `failed` one the application may go on with the token before, and does so while "
        "one is `pending`, see docs/runbooks/tokensidecarhooksfailing.md.",
        {
            "{{outcome}}": in_an_hour(token("hook_runs_total"), "outcome"),
            "pending": f"sum({token('hook_pending')})",
        },
        unit="short",
        none="No token has a hook.",
        span=8,
    )
    panels.table(
        "Outputs and hooks that failed",
        "In the time that is shown: the log has the reasons, such as a permission or somebody who doesn't listen.",
        [Column("Failures", f"topk(50, sum by ({TOKEN}, where) ({failures}) > 0)", ROUGHLY)],
        keys=("namespace", "job", "token", "where"),
        none="Nothing failed.",
        greatest="Failures",
        span=8,
    )
    panels.table(
        "Written, and not read since",
        "Where it is known that somebody reads: if the refresh was long ago, see whether the application still opens "
        "this file, and docs/runbooks/tokensidecaroutputnotread.md.",
        [Column("Refreshed ago", f"({unread}) * on ({TOKEN}) group_left () ({_refreshed_ago()})", SECONDS)],
        keys=("namespace", "job", "token", "output"),
        none="Everything was read, or it isn't known.",
        greatest="Refreshed ago",
        span=12,
    )
    panels.table(
        "Sets of accounts",
        "How many are served, how many can't be because of their names, and when it was last found out who they are: "
        "if that is long ago, `token-sidecar status` says why.",
        [
            Column("Accounts", f"max by ({_SET}) ({daemon('set_members')})", PLAIN),
            Column(
                "Refused",
                f"max by ({_SET}) ({daemon('set_refused_accounts')})",
                (*PLAIN, *colored("green", (1, "red"))),
            ),
            Column(
                "Listed ago",
                f"max by ({_SET}) (time() - {daemon('set_last_listed_timestamp_seconds')})",
                (*SECONDS, *colored("green", (900, "red"))),
            ),
        ],
        keys=("namespace", "job", "set"),
        none="There are no sets.",
        least="Set",
        span=12,
    )


_FAILED = 'outcome="failed"'
_SET = "namespace, job, set"


def _processes(panels: Panels) -> None:
    cpu = f"rate({every('process_cpu_seconds_total', over='$__rate_interval')})"
    panels.row("Daemons")
    panels.graph(
        "Since the last heartbeat",
        "Of each worker, the ten longest: a line that climbs is a daemon that hangs, and what watches it should have "
        "restarted it.",
        {"{{replica}} {{worker}}": ten_most(f"time() - {daemon('heartbeat_timestamp_seconds')}")},
        unit="s",
        none=NOBODY,
        span=6,
    )
    panels.graph(
        "Memory",
        "Resident, the ten replicas with the most: near its limit a daemon needs a higher one, or fewer tokens.",
        {"{{replica}}": ten_most(ours(every("process_resident_memory_bytes")))},
        unit="bytes",
        none=NOBODY,
        span=6,
    )
    panels.graph(
        "Processor",
        "Of one core, the ten replicas that take the most: if it is much without refreshes, report it.",
        {"{{replica}}": ten_most(ours(cpu))},
        unit="percentunit",
        none=NOBODY,
        span=6,
    )
    panels.graph(
        "Open files",
        "Of what the process may open, the ten replicas nearest to it: raise the limit, and report what climbs.",
        {"{{replica}}": ten_most(f"{ours(every('process_open_fds'))} / {every('process_max_fds')}")},
        unit="percentunit",
        none=NOBODY,
        span=6,
    )


def _variables(board: dashboard.Dashboard) -> None:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    board.with_variable(source)
    before: list[str] = []
    for label in PLACE:
        board.with_variable(variable(label, f"token_sidecar_build_info{{{','.join(before)}}}"))
        before.append(f'{label}=~"${label}"')
    board.with_variable(variable("token", daemon("min_validity_seconds")))


def _annotations(board: dashboard.Dashboard) -> None:
    dead = token("grant_state", _state(GrantState.DEAD))
    died = f"{per_token('max', dead)} > 0 unless {per_token('max', f'{dead} offset $__rate_interval')} > 0"
    restarted = ours(f"changes({every('process_start_time_seconds', over='$__rate_interval')})")
    board.annotation(Built(Annotation("Grant died", "red", died, "{{namespace}} {{token}}")))
    board.annotation(Built(Annotation("Restart", "blue", f"{named(restarted)} > 0", "{{replica}}")))


def build() -> models.Dashboard:
    """Make it."""
    board = (
        dashboard.Dashboard("token-sidecar")
        .uid("token-sidecar")
        .description(
            "OAuth2 tokens: how long they are valid, who has to consent when, and how their daemons are."
        )
        .tags(["token-sidecar", "oauth2"])
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("1m")
    )
    _variables(board)
    _annotations(board)
    panels = Panels(board)
    for add in (_tokens, _numbers, _people, _refreshes, _stores, _replicas, _outputs, _processes):
        add(panels)
    return board.build()


def text() -> str:
    """Return dashboard.json as it should be."""
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(build()) + "\n"


def reference() -> str:
    """Write docs/reference/dashboard.md."""
    rows, section = [], "Overview"
    for panel in build().panels or []:
        if isinstance(panel, models.Panel):
            rows.append(f"| {section} | {panel.title} | {panel.description} |")
        else:
            section = str(panel.title)
    return _PAGE.format(rows="\n".join(rows))


_PAGE = """\
# Dashboard

<!-- Written from tests/helm/dashboard.py by `make chart`; a test says when it's out of date. -->

`helm/token-sidecar/files/dashboard.json` is a dashboard for Grafana over what Prometheus scraped from
[`/metrics`](metrics.md). It begins with one row for each token: how long what the application reads is still valid,
and what state the grant is in. It serves one daemon on a host as well as all of a cluster's, and one token as well as
a set of thousands.

## Get it into Grafana

**By hand**: *Dashboards*, *New*, *Import*, and the file. Its first menu chooses the data source.

**With the chart**, as a ConfigMap that the sidecar of Grafana's own charts finds by its label `grafana_dashboard`:

```yaml
token-sidecar:
  podMonitor: {{enabled: true}}
  dashboard:
    enabled: true
    annotations: {{grafana_folder: Tokens}}
```

- **Ask for it in one release of a cluster.** It shows all namespaces, and Grafana's provisioning doesn't take two of
  one `uid`.
- That sidecar looks into Grafana's own namespace, unless its chart says `sidecar.dashboards.searchNamespace: ALL`;
  and at the folder's annotation, if `sidecar.dashboards.folderAnnotation: grafana_folder` says so.
- `dashboard.labels` replaces the label where yours looks for another one.
- With a [console](../howto/console.md) (`config.console.url`, or `dashboard.consoleUrl` where it is another
  release's) each token's name in the first table is a link to its page.

**From a file**: put it into the folder of a provider of dashboards in Grafana's own provisioning.

## What it needs

- Prometheus 2.42 or newer, or what speaks its language, with the labels `job` and `instance` that it gives by itself.
  `namespace` and `pod`, which a PodMonitor adds, may be missing: on hosts a replica is called by its `instance`.
- `$__rate_interval` follows from the data source's scrape interval, but is two minutes at least, so that it works
  with the chart's half a minute.
- Grafana 11 or newer. It is made and checked with the classes that Grafana publishes for 11.6, and each query is
  asked of a real Prometheus in the tests; Grafana itself is not run there.

## How to read it

- **A row is a token**, however many replicas serve it: what it shows is the worst of them. Choose a `Pod` or an
  `Instance` to see one replica's.
- **`SET/*`** is all accounts of a [set](../howto/many-accounts.md) beyond its `max_series`: the earliest of their
  times, the most urgent of their states. `token-sidecar status` names the account.
- **Calls, commits, leases and writes are counted over the hour before each moment**, since most tokens are refreshed
  about once an hour. What a daemon did before its first scrape is not counted.
- **"unknown"** is what the daemon cannot know: the end of a grant that the provider doesn't tell, or whether a file
  was read on a mount that keeps no times of access.
- A red mark in the graphs is a grant that died, a blue one a daemon that was restarted.

## Panels

| Row | Panel | What it shows, and what to do |
|---|---|---|
{rows}
"""
