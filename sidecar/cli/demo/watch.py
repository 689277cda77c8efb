"""Turns what processes, daemon and provider say into events for people, and knows what somebody broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sidecar.cli.demo import provider
from sidecar.cli.demo.processes import Child, Fall
from sidecar.cli.demo.reader import Findings, Repeating
from sidecar.cli.demo.screen import BAD, GOOD, PLAIN
from sidecar.cli.demo.trouble import Troubles

STANDSTILL = 2.0
"""Seconds between two looks after which this machine, or this process, must have been asleep."""

ADVICE = {
    "dead": "; now only a new consent helps",
    "in_doubt": "; the refresh token may be spent, so it waits for the last moment before it is used again",
}
"""What to add where a refresh token is concerned."""

Answers = Repeating[dict[str, Any] | None]


@dataclass(kw_only=True)
class Watch:
    """To be asked to look several times a second. Times are Unix seconds."""

    daemon: Child
    simulator: Child
    asked_daemon: Answers
    asked_provider: Answers
    findings: Findings
    min_validity: float
    tell: Callable[[str, str], None]
    """Called with an event's text and mood."""

    troubles: Troubles = field(default_factory=Troubles)
    status: dict[str, Any] = field(default_factory=dict)
    """The daemon's last answer."""
    report: dict[str, Any] = field(default_factory=dict)
    """The provider's last answer."""
    tampered: bool = False
    """Whether the provider's answers were ever scripted to be wrong."""
    looked_at: float = 0.0
    _ended: set[str] = field(default_factory=set)
    """Lineages whose grants somebody ended at the provider, and others of the same moment."""
    _earlier: dict[str, int] = field(default_factory=dict)
    """Tokens given out by a provider that was killed since: its log of requests starts anew."""

    @property
    def issued(self) -> dict[str, int]:
        """Access tokens that were given out, by grant type."""
        now = provider.issued(self.report) if self.report else {}
        return {
            kind: self._earlier.get(kind, 0) + now.get(kind, 0) for kind in self._earlier.keys() | now.keys()
        }

    def look(self, now: float) -> None:
        """Notice what has changed."""
        passed = now - (self.looked_at or now)
        self.looked_at = now
        if passed > STANDSTILL:
            self.troubles.note(now, f"this machine, or the demo, stood still for {passed:.0f} s")
        self._look_at_daemon(now, passed)
        self._look_at_provider(now)
        self._hear_provider(now)
        self._hear_daemon()
        if self._has_ended_grant():
            self.troubles.note(now, "the grant, by ending it at the provider")
        trouble = self.troubles.present
        if trouble is not None and self._is_well(trouble.last_cause, now):
            trouble.ended = now
            self.tell("all is well again", GOOD)

    # Processes

    def _look_at_daemon(self, now: float, passed: float) -> None:
        fall = self.daemon.look()
        if fall is not None:
            self.tell(f"the daemon {fall.how}; it is started again, as kubelet would do", BAD)
        away = [fall for fall in self.daemon.falls if fall.back_at is None]
        if away:
            self.troubles.note(now, f"the daemon {away[-1].how}", fall=True)
            if self.troubles.present is not None:
                self.troubles.present.downtime += passed
            if self._is_back(self.daemon, self.asked_daemon):
                self.tell(
                    f"the daemon is back after {_back(away, now):.1f} s, and goes on where it was", GOOD
                )
        elif self.daemon.is_stopped():
            if self.troubles.present is None:
                self.tell("the daemon is frozen", BAD)
            self.troubles.note(now, "the daemon was frozen (SIGSTOP)")

    def _look_at_provider(self, now: float) -> None:
        fall = self.simulator.look()
        if fall is not None:
            self.tell(f"the provider {fall.how}; it is started again", BAD)
            self._earlier, self.report = self.issued, {}
        away = [fall for fall in self.simulator.falls if fall.back_at is None]
        if away:
            self.troubles.note(now, f"the provider {away[-1].how}")
            if self._is_back(self.simulator, self.asked_provider):
                self.tell(f"the provider is back after {_back(away, now):.1f} s", PLAIN)
        elif self.simulator.is_stopped():
            self.troubles.note(now, "the provider was frozen (SIGSTOP)")

    # What they say

    def _hear_provider(self, now: float) -> None:
        report = self._answer(self.asked_provider)
        if report is None or self.simulator.pid is None or report is self.report:
            return
        before, self.report = self.report, report
        armed, faulted = report["faults_armed"], _faulted(report)
        if armed and not before.get("faults_armed"):
            self.tell("the provider is broken: somebody armed faults", BAD)
        elif before.get("faults_armed") and not armed:
            self.tell("the provider behaves again", PLAIN)
        if armed or faulted > _faulted(before):
            self.tampered = True
            self.troubles.note(now, "the provider, by faults")
        killed = _killed(report) - _killed(before)
        if before and killed:
            self.tell("somebody ended the grant at the provider: its tokens are refused from now on", BAD)
            self._ended = {token["lineage"] for token in self.status.get("tokens", {}).values()}

    def _hear_daemon(self) -> None:
        status = self._answer(self.asked_daemon)
        if status is None or status is self.status:
            return
        before, self.status = self.status.get("tokens", {}), status
        for name, token in status["tokens"].items():
            self._hear_token(name, before.get(name), token)
            if token["in_doubt_since"] is not None and self.troubles.present is not None:
                self.troubles.present.in_doubt = True

    def _hear_token(self, name: str, before: dict[str, Any] | None, token: dict[str, Any]) -> None:
        if before is not None and before["lineage"] and token["lineage"] != before["lineage"]:
            self.tell(f"{name}: a new refresh token was given, and it starts anew", GOOD)
        if token["fingerprint"] and (before is None or token["fingerprint"] != before["fingerprint"]):
            old = "" if token["generation"] > 1 else ", its first token"
            if before is not None and before["expires_at"] and token["last_success"]:
                left = before["expires_at"] - token["last_success"]
                old = f"; the old token had {left:.1f} s left" if left > 0 else "; the old token had expired"
            self.tell(f"{name}: refreshed to generation {token['generation']}{old}", PLAIN)
        state = standing(token)
        if state != (standing(before) if before else "ok") and (token["generation"] or state != "unseeded"):
            if state == "ok":
                self.tell(f"{name}: the grant is ok again", GOOD)
            else:
                todo = ADVICE.get(state, "") if token["refresh_fingerprint"] else ""
                self.tell(f"{name}: {state}: {token['reason']}{todo}", BAD)

    def _has_ended_grant(self) -> bool:
        """Tell whether the daemon still holds a grant that somebody ended; it only learns that at the next refresh."""
        tokens = self.status.get("tokens", {}).values()
        return any(token["refresh_fingerprint"] and token["lineage"] in self._ended for token in tokens)

    def _is_well(self, since: float, now: float) -> bool:
        """Tell whether daemon, provider and reader all say, by what they learned after `since`, that all is well."""
        if not self._has_answered(self.asked_daemon, since) or not self._has_answered(
            self.asked_provider, since
        ):
            return False
        tokens = self.status["tokens"].values()
        seen = list(self.findings.seen.values())
        return (
            all(token["grant_state"] == "ok" and token["access_state"] == "fresh" for token in tokens)
            and not any(file.problem for file in seen)
            and all(file.expires_at is None or file.expires_at - now >= self.min_validity for file in seen)
            and not any(breach.second >= now - 1 for breach in list(self.findings.breaches.values()))
        )

    def _is_back(self, child: Child, asked: Answers) -> bool:
        restarted = child.pid is not None and child.started_at > child.falls[-1].at
        return restarted and self._has_answered(asked, child.started_at)

    @staticmethod
    def _answer(asked: Answers) -> dict[str, Any] | None:
        return asked.latest[1] if asked.latest is not None else None

    @staticmethod
    def _has_answered(asked: Answers, since: float) -> bool:
        return asked.latest is not None and asked.latest[0] > since and asked.latest[1] is not None


def standing(token: dict[str, Any]) -> str:
    """Return a grant's state; the moment between an answer and its commit, which comes with no reason, is none."""
    state: str = token["grant_state"]
    return "ok" if state == "unpersisted" and not token["reason"] else state


def _back(away: list[Fall], now: float) -> float:
    """Note that it is back, and return for how long it was away."""
    for fall in away:
        fall.back_at = now
    return now - away[0].at


def _faulted(report: dict[str, Any]) -> int:
    return sum(request["faulted"] for request in report.get("requests", ()))


def _killed(report: dict[str, Any]) -> int:
    return sum(family["killed"] in provider.BY_HAND for family in report.get("families", ()))
