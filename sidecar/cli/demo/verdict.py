"""Were the promises kept? A pure function of what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sidecar.cli.demo.directory import TOKENS
from sidecar.cli.demo.processes import Fall
from sidecar.cli.demo.provider import BY_HAND
from sidecar.cli.demo.reader import Findings
from sidecar.cli.demo.trouble import Troubles

HASTY = 5.0
"""Seconds in which nothing has to have happened, if somebody ends the demo."""

SENTENCES = {
    "missing": "was missing in {count} of the reads",
    "empty": "was empty in {count} of the reads",
    "torn": "was torn in {count} of the reads",
    "expired": "held an expired token in {count} of the reads; at worst it had ended {past:.1f} s ago",
    "short": "held a token with less than {promised:.3g} s left in {count} of the reads; at worst {lowest:.1f} s",
    "refused": "held a token that the provider refused, {count} times",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen of one demo."""

    seconds: float
    interrupted: bool
    """Whether somebody ended it before its time."""
    findings: Findings
    troubles: Troubles
    min_validity: float
    lease: float
    issued: dict[str, int]
    """Access tokens that the provider gave out, by grant type."""
    report: dict[str, Any]
    """The provider's last one; empty: it never answered."""
    status: dict[str, Any]
    """The daemon's last one; empty: it never answered."""
    tampered: bool
    """Whether the provider's answers were ever scripted to be wrong."""
    daemon_falls: list[Fall]
    provider_falls: list[Fall]
    exit_code: int | None
    """The daemon's, when it was told to stop; None: it wasn't running."""
    now: float
    reuses: bool = False
    """Whether this provider's refresh tokens may rightly be used more than once."""


@dataclass
class Verdict:
    """What is to be said at the end."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    """Figures, each with what it counts."""
    broken: list[str] = field(default_factory=list)
    """Promises that were broken."""
    dead: list[str] = field(default_factory=list)
    """Tokens that are dead because somebody ended their grants."""
    told: list[str] = field(default_factory=list)
    """What somebody broke on purpose."""

    @property
    def well(self) -> bool:
        """Whether the demo ends with exit code 0."""
        return not self.broken and not self.dead


def judge(facts: Facts) -> Verdict:
    """Compare what was seen with what is promised."""
    verdict = Verdict()
    verdict.told = [cause for trouble in facts.troubles.all for cause in trouble.causes]
    verdict.broken += _seen_by_reader(facts)
    verdict.broken += _used_twice(facts)
    verdict.broken += _unfinished(facts)
    verdict.broken += [f"the daemon {fall.how}" for fall in facts.daemon_falls if not fall.by_hand]
    _judge_the_dead(facts, verdict)
    verdict.rows = _rows(facts)
    return verdict


def _seen_by_reader(facts: Facts) -> list[str]:
    spare = facts.min_validity + facts.lease
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for breach in facts.findings.breaches.values():
        if any(t.excuses(breach.kind, breach.second, spare=spare) for t in facts.troubles.all):
            continue
        count, lowest = found.get((breach.file, breach.kind), (0, breach.lowest))
        found[breach.file, breach.kind] = count + breach.count, min(lowest, breach.lowest)
    return [
        f"{file} "
        + SENTENCES[kind].format(count=count, lowest=lowest, past=-lowest, promised=facts.min_validity)
        for (file, kind), (count, lowest) in sorted(found.items())
    ]


def _used_twice(facts: Facts) -> list[str]:
    """Tell of refresh tokens that were used again, but for what no client can help.

    When the daemon or the provider dies while an answer is on its way, nobody knows whether the refresh token is
    spent; the daemon uses it once more, as late as it can.
    """
    meddled = facts.tampered or any(fall.by_hand for fall in (*facts.daemon_falls, *facts.provider_falls))
    killed = {family["id"] for family in facts.report.get("families", ()) if family["killed"] in BY_HAND}
    broken = []
    for token in facts.report.get("tokens", ()):
        answer_was_lost = meddled and token["answered"] < token["uses"]
        was_refused = not token["replays"] and (facts.tampered or token["family"] in killed)
        again = token["replays"] if facts.reuses else token["uses"] > 1
        if again and not answer_was_lost and not was_refused:
            broken.append(f"the refresh token {token['fingerprint']} was used {token['uses']} times")
    return broken


def _unfinished(facts: Facts) -> list[str]:
    broken = []
    if not (facts.interrupted and facts.seconds < HASTY):
        files = [file for files in TOKENS.values() for file in files]
        broken += [f"{file} never appeared" for file in files if file not in facts.findings.seen]
        if not sum(facts.issued.values()):
            broken.append("nothing was refreshed")
    if facts.troubles.lingers(facts.now):
        broken.append("what somebody broke was mended, and a minute later all was not well yet")
    if facts.exit_code not in (0, None) and facts.troubles.present is None:
        broken.append(f"the daemon did not stop as it should (exit code {facts.exit_code})")
    return broken


def _judge_the_dead(facts: Facts, verdict: Verdict) -> None:
    families = facts.report.get("families", ())
    by_hand = any(family["killed"] in BY_HAND for family in families) or bool(facts.troubles.present)
    for name, token in facts.status.get("tokens", {}).items():
        if token["grant_state"] == "dead":
            to = verdict.dead if by_hand else verdict.broken
            to.append(f"{name} is dead: {token['reason']}")


def _lowest(facts: Facts) -> str:
    """Tell apart what was seen while something was broken on purpose; a killed daemon has to be survived."""
    breakages = [trouble for trouble in facts.troubles.all if not trouble.only_falls]
    calm: list[float] = []
    troubled: list[float] = []
    for second, left in facts.findings.lows.items():
        (troubled if any(trouble.covers(second) for trouble in breakages) else calm).append(left)
    shown = f"{min(calm):.1f} s" if calm else "none"
    meanwhile = f" (while something was broken on purpose: {min(troubled):.1f} s)" if troubled else ""
    return f"{shown} that a reader saw, {facts.min_validity:.3g} s are promised{meanwhile}"


def _rows(facts: Facts) -> list[tuple[str, str]]:
    findings = facts.findings
    counts = ", ".join(f"{findings.count(kind)} {kind}" for kind in ("torn", "empty", "missing"))
    refused = findings.count("refused")
    used = len(facts.report.get("tokens", ()))
    again = sum(token["uses"] > 1 for token in facts.report.get("tokens", ()))
    refreshes = ", ".join(
        f"{facts.issued.get(grant, 0)} {name}"
        for grant, name in (("refresh_token", "gmail"), ("client_credentials", "reports-api"))
    )
    rows = [
        ("refreshes done", f"{sum(facts.issued.values())} ({refreshes})"),
        ("lowest validity", _lowest(facts)),
        ("torn reads", f"{counts}, of {findings.reads:,} reads"),
        ("shown to the provider", f"{findings.shown} times; {refused or 'none'} refused"),
        ("refresh tokens", f"{used} issued; {again or 'none'} used twice"),
    ]
    for fall in facts.daemon_falls:
        back = "not back yet" if fall.back_at is None else f"back after {fall.back_at - fall.at:.1f} s"
        rows.append(("daemon", f"{fall.how}; {back}"))
    return rows
