"""The judge, who knows what really happened, and what was promised.

Every promise has a name, which a verdict begins with:

- `single-use`: no refresh token is presented twice, unless the provider's profile allows it
- `survival`: the newest pair is in the record, among its orphans, or in an escrow
- `healing`: a store that fell back is healed by a daemon that knows better
- `freshness`: no reader sees a token with less than `min_validity` left, while answers are definite
- `dead-silence`: a dead grant gets no calls, but for one with each request for it
- `true-death`: no grant is declared dead that the provider would still serve
- `back-off`: what the record says about leaving the provider alone binds everybody
- `pace`: nothing turns in a hot loop
- `progress`: once the faults have ended, all becomes well
- `soundness`: the engine raises nothing that it doesn't know

What excuses is named by its window, W1 to W7, as docs/explanation/rotation.md lists them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.escrow import Escrow
from sidecar.events import TurnEnded
from sidecar.ports import Answer
from sidecar.profile import InDoubt, Rotation
from sidecar.renewer import OBSTACLE_RETRY
from sidecar.schedule import IN_DOUBT_HOLD, Policy, timing
from sidecar.tokens import GrantState, Record, RefreshToken, decode_record, fingerprint

if TYPE_CHECKING:
    from sidecar.stores.memory import _Row
    from tests.simulation.plan import Disturbance
    from tests.simulation.world import Host, Process, World

STRANDED = 60.0
"""Seconds of undisturbed life within which a daemon must have committed what it holds."""
HEALING = 90.0
"""The same for noticing that the store fell back: a look a minute, and a retry or two."""
SETTLING = 75.0
"""The same for a refresh that is due, or was made elsewhere: a look a minute, and a turn."""
RETRY = 5.0
"""Seconds that a fault at a port may cost beside its own length: the longest pause between two tries."""
COST_COUNTS = 120.0
"""Seconds for which the delay that a fault caused may still be felt."""
MANY_CALLS, MANY_LOOKS = 40, 600
"""More of them within a minute, for one token or on one host, are a hot loop."""


class Verdict(AssertionError):
    """The engine broke a promise."""

    def __init__(self, promise: str, reason: str) -> None:
        super().__init__(f"{promise}: {reason}")
        self.promise = promise


@dataclass
class Call:
    """One use of a refresh token, as it really was."""

    by: Process
    token: str
    refresh: str
    lineage: str
    seeds: tuple[str, ...]
    """Those that the record had seen by then."""
    began: float
    """True time, in Unix seconds."""
    fate: str = "pending"
    """pending | lost | caught | answered (without a new refresh token) | refused | dead."""
    ended: float = float("inf")
    frozen: bool = False
    """Whether the caller stood still between the lease check and the first byte (window W5)."""
    successor: str | None = None

    def lost(self, now: float) -> None:
        """Note that nobody knows the answer (window W1, or W2)."""
        if self.fate in {"pending", "caught"}:
            self.fate, self.ended = "lost", now


@dataclass
class Case:
    """What is known of one grant."""

    uses: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    pending: list[Call] = field(default_factory=list)
    caught: dict[str, Call] = field(default_factory=dict)
    """Newest refresh tokens whose answer reached a living process in whole."""
    in_hand: set[str] = field(default_factory=set)
    """Those that only a process has, since its escrow broke."""
    fell_back_at: float = 0.0
    wise: set[Process] = field(default_factory=set)
    """Daemons that were running then."""
    troubled_at: float = 0.0
    costs: deque[tuple[float, float]] = field(default_factory=deque)
    """When a fault hit this token's ports, and how many seconds it may have cost."""
    silence: dict[Process, float] = field(default_factory=dict)
    silent_until: float = 0.0
    """Until when the provider asked to be left alone, as far as the record knows."""
    requested: set[Process] = field(default_factory=set)
    """Who was asked for a refresh by hand, of a token that was not replaced since."""
    lineage: str = ""
    calls: deque[float] = field(default_factory=deque)
    seen: tuple[_Row | None, Record | None] = (None, None)


class Judge:
    """Watches everything, and blames the engine for what no window excuses."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cases = {token.name: Case() for token in world.tokens}
        self.answers: dict[tuple[Process, str], tuple[Call, Answer]] = {}
        self.looks: dict[Host, deque[float]] = defaultdict(deque)
        self.judged: Counter[str] = Counter()
        """How often each promise was really put to the test."""
        self.excused: Counter[str] = Counter()
        policy, kind = Policy(), world.kind
        self._times = timing(policy, kind.profile, world.scenario.ttl)
        self._error = 2 * world.wobble + 1

    @property
    def replays(self) -> bool:
        """Whether the provider minds no second use."""
        return self.world.kind.profile.in_doubt is InDoubt.REPLAY_OK

    def record(self, token: str) -> Record | None:
        """Read what the store really holds."""
        case, row = self.cases[token], self.world.rows._rows.get(f"test/{token}")
        if case.seen[0] is not row:
            case.seen = row, decode_record(row.blob) if row else None
        return case.seen[1]

    # What the ports tell

    def hindered(self, token: str, hit: Disturbance | None) -> None:
        """Note that a fault hits a token's port; called at every visit."""
        if hit is not None:
            retry = OBSTACLE_RETRY if hit.place.endswith("/arm") else RETRY
            self.cases[token].costs.append((self.world.now(), retry + hit.value))

    def looked(self, host: Host) -> None:
        """Count looks at the store, which a hot loop makes without end."""
        looks, now = self.looks[host], self.world.now()
        looks.append(now)
        while looks[0] < now - 60:
            looks.popleft()
        if len(looks) > MANY_LOOKS:
            raise Verdict("pace", f"{host.name} asks the store {MANY_LOOKS} times within a minute")

    def sends(self, process: Process, token: str, refresh: RefreshToken) -> Call:
        """Judge a request before it leaves."""
        case, now = self.cases[token], self.world.now()
        acted_on = process.renewers[token].record
        lineage, seeds = (acted_on.lineage, acted_on.seeds) if acted_on is not None else ("", ())
        call = Call(process, token, refresh.fingerprint, lineage, seeds, now)
        self._judge_pace(case, now)
        self._judge_silence(case, process, token, refresh)
        if not self.replays:
            for earlier in case.uses[refresh.fingerprint]:
                self.judged["single-use"] += 1
                self._judge_second_use(case, call, earlier, acted_on)
        case.uses[refresh.fingerprint].append(call)
        case.pending.append(call)
        return call

    def receives(self, call: Call, answer: Answer) -> None:
        """Note what an answer says, before the process can do anything about it."""
        case, world = self.cases[call.token], self.world
        successor, fate = _meaning(answer)
        call.ended = world.now()
        call.successor = fingerprint(successor) if successor else None
        well = fate in {"caught", "answered"}
        world.note(f"{call.by.host.name} gets {answer.status} for {call.token}, {fate}", loud=not well)
        if fate != "caught":
            call.fate = fate
        if fate in {"answered", "dead"}:
            # It was not replaced, so whatever was lost before was no rotation. Or that is settled, with the grant.
            case.uses[call.refresh].clear()
        if fate == "dead":
            case.caught.pop(call.refresh, None)
        if fate in {"answered", "caught"}:
            # Whoever was asked was asked to replace the token before this one.
            case.requested.clear()
        asked = answer.headers.get("retry-after")
        case.silence[call.by] = call.began + float(asked) if asked else 0.0
        self.answers[call.by, call.token] = call, answer

    def keeps(self, process: Process, token: str, *, in_escrow: bool) -> None:
        """Note that an answer is in escrow, or that it is only in the hands of a process whose escrow broke."""
        call, _ = self.answers.pop((process, token))
        if call.successor is None:
            return
        case = self.cases[token]
        call.fate, call.ended = "caught", self.world.now()
        # Its successor takes its place: that one must not be lost from now on.
        case.caught.pop(call.refresh, None)
        case.in_hand.discard(call.refresh)
        if self.world.kind.profile.rotation is not Rotation.NEVER:
            case.caught[call.successor] = call
            if not in_escrow:
                case.in_hand.add(call.successor)

    def drops(self, process: Process, token: str) -> None:
        """Note that a process died with an answer in its hands (window W2), unless it is in escrow."""
        call, _ = self.answers.pop((process, token), (None, None))
        if call is not None:
            call.lost(self.world.now())

    def written(self, process: Process, token: str, record: Record) -> None:
        """Note what a record in the store now says: whose it is, and how long to leave the provider alone."""
        case = self.cases[token]
        if record.lineage != case.lineage:
            case.lineage = record.lineage
            self.troubled(token)
        if record.backoff is None:
            case.silent_until = 0.0
        elif case.silence.get(process) and record.attempt is None:
            case.silent_until = max(case.silent_until, case.silence.pop(process))

    # What the world tells

    def troubled(self, token: str | None = None) -> None:
        """Note that something happened that delays a token, or all."""
        for name, case in self.cases.items():
            if token in {None, name}:
                case.troubled_at = self.world.now()

    def fell_back(self, token: str) -> None:
        """Note that the store lost what it had acknowledged (window W6)."""
        case = self.cases[token]
        case.fell_back_at = self.world.now()
        case.wise = set(self.world.processes())
        case.silent_until = 0.0
        self.troubled(token)

    def asked_for(self, process: Process, token: str) -> None:
        """Note that somebody asked a daemon for a refresh by hand."""
        self.cases[token].requested.add(process)

    # single-use

    def _judge_second_use(self, case: Case, call: Call, earlier: Call, record: Record | None) -> None:
        if earlier.fate in {"answered", "refused", "dead"}:
            return
        if earlier.frozen:
            self.excused["W5"] += 1
            return
        if case.fell_back_at > earlier.began and self._forgotten(case, call):
            self.excused["W6"] += 1
            case.caught.clear()
            return
        if self._is_forgiven(earlier, call):
            self.excused["grace"] += 1
            return
        who, what = call.by.host.name, call.refresh
        own, since = earlier.by.host is call.by.host, call.began - earlier.began
        if earlier.fate == "lost":
            self._judge_doubt(call, earlier, record)
        elif own:
            raise Verdict("single-use", f"{who} sends {what} again, whose answer it has caught or awaits")
        elif earlier.fate == "caught" and self._could_commit(earlier):
            raise Verdict(
                "single-use",
                f"{who} sends {what}, whose answer {earlier.by.host.name} has had time to commit",
            )
        if not own and since < IN_DOUBT_HOLD - 1:
            raise Verdict("single-use", f"{who} sends {what}, which {earlier.by.host.name} used a moment ago")
        self.excused["W3" if earlier.fate == "caught" else "W1"] += 1

    def _is_forgiven(self, earlier: Call, call: Call) -> bool:
        """Tell whether the provider takes both uses for one client's; who has the answer needs no second one."""
        profile, kept = self.world.kind.profile, earlier.fate == "caught" and earlier.by.host is call.by.host
        if profile.in_doubt is not InDoubt.REPLAY_WINDOW or kept:
            return False
        return call.began <= earlier.began + (profile.grace or 0.0) + self._error

    def _forgotten(self, case: Case, call: Call) -> bool:
        """Tell whether the store lost the knowledge of an earlier use, and nobody who knows has had time to tell."""
        for process in self.world.processes():
            if not self._knows_spent(process, call):
                continue
            if process is call.by:
                raise Verdict(
                    "single-use", f"{process.host.name} sends {call.refresh}, and knows that it is spent"
                )
            if self._able_for(process.host, case.fell_back_at) > HEALING:
                raise Verdict(
                    "single-use",
                    f"{call.by.host.name} sends {call.refresh}, which {process.host.name} could have healed",
                )
        return True

    def _knows_spent(self, process: Process, call: Call) -> bool:
        record = process.renewers[call.token].record
        return record is not None and call.refresh in record.replaced

    def _could_commit(self, earlier: Call) -> bool:
        host = earlier.by.host
        return not host.abandoned and host.settled_at > earlier.ended

    def _judge_doubt(self, call: Call, earlier: Call, record: Record | None) -> None:
        """Blame what comes too early after an answer was lost."""
        world, doubt = self.world, self.world.kind.profile.in_doubt
        if world.scenario.steps_clocks or record is None or record.access is None:
            # What a daemon with a wrong clock believes of expiries and windows is its own truth.
            return
        own = earlier.by.host is call.by.host
        if own and doubt is InDoubt.REPLAY_UNTIL_USED:
            return
        left = (record.access.expires_at or 0.0) - call.began
        early = world.scenario.ttl / 24 if own else 0.0
        if left > early + self._error:
            raise Verdict(
                "single-use",
                f"{call.by.host.name} sends {call.refresh} in doubt, {left:.0f} s before the access token's end",
            )

    # dead-silence, back-off, pace

    def _judge_silence(self, case: Case, process: Process, token: str, refresh: RefreshToken) -> None:
        record, now = self.record(token), self.world.now()
        if record is None or record.refresh is None or record.refresh.value != refresh.value:
            return
        leased = record.attempt is not None and record.attempt.instance == process.host.name
        if not self.world.kind.profile.may_rotate and not leased:
            # What can't rotate goes on without the store, and without knowing what is in there.
            return
        if not leased and self.world.now() - case.fell_back_at < self._times.lease:
            # It had a lease, and the store forgot it.
            self.excused["W6"] += 1
            return
        self.judged["dead-silence"] += 1
        # It came while a turn was under way, perhaps: then that one's call is not the one that was asked for.
        asked = process in case.requested
        if record.is_dead():
            case.requested.discard(process)
        if record.is_dead() and not asked:
            raise Verdict("dead-silence", f"{process.host.name} sends {refresh.fingerprint}, which is dead")
        if self.world.scenario.steps_clocks or process.renewers[token]._ledger.alone:
            # It acts on what it owes to the store, not on what is there.
            return
        ends = [case.silent_until]
        if record.backoff is not None and not asked:
            ends.append(record.backoff.not_before)
        self.judged["back-off"] += 1
        if now < max(ends) - self._error:
            raise Verdict(
                "back-off", f"{process.host.name} calls {max(ends) - now:.0f} s too early for {token}"
            )

    def _judge_pace(self, case: Case, now: float) -> None:
        case.calls.append(now)
        if len(case.calls) > MANY_CALLS and case.calls.popleft() > now - 60:
            raise Verdict("pace", f"{MANY_CALLS} calls within a minute")

    # What is looked at again and again

    def check(self) -> None:
        """Look at everything."""
        now = self.world.now()
        for host in self.world.hosts:
            if now - self.world.able_since(host) >= STRANDED:
                host.settled_at = now
        for name, case in self.cases.items():
            record = self.record(name)
            self._check_pairs(name, case, record)
            self._check_death(name, record)
            self._check_readers(name, case, record)

    def _able_for(self, host: Host, since: float = 0.0) -> float:
        return self.world.now() - max(since, self.world.able_since(host))

    # survival, healing

    def _check_pairs(self, name: str, case: Case, record: Record | None) -> None:
        if not case.caught:
            return
        escrows: set[str] | None = None
        for pair, call in list(case.caught.items()):
            self.judged["survival"] += 1
            if record is not None and _is_in(record, pair):
                case.in_hand.discard(pair)
                continue
            if record is not None and _is_history(record, pair, call, used=bool(case.uses.get(pair))):
                del case.caught[pair]
                continue
            if escrows is None:
                escrows = set().union(*(self._escrow(host, name) for host in self.world.hosts))
            if pair not in escrows:
                self._judge_lost(name, case, pair, call)

    def _judge_lost(self, name: str, case: Case, pair: str, call: Call) -> None:
        """Decide about a pair that is in no durable place."""
        knowing = [process for process in self.world.processes() if _knows(process, name, pair)]
        if pair in case.in_hand and (knowing or call.by.dead):
            # Its escrow broke: as W2, should the process die.
            if not knowing:
                self._drop(case, pair, "W2")
            return
        if call.by.host.abandoned and not knowing and case.fell_back_at < call.ended:
            self._drop(case, pair, "W3")
            return
        if case.fell_back_at > call.ended:
            self._judge_forgotten(name, case, pair, knowing)
            return
        raise Verdict("survival", f"the pair {pair}, which {call.by.host.name} caught, is nowhere any more")

    def _judge_forgotten(self, name: str, case: Case, pair: str, knowing: list[Process]) -> None:
        call = case.caught[pair]
        for process in knowing:
            if self._able_for(process.host, case.fell_back_at) > HEALING:
                raise Verdict(
                    "healing", f"{process.host.name} knows {pair}, which the store lost, and keeps it"
                )
        record = self.record(name)
        if record is not None and set(record.seeds) - set(call.seeds):
            # A human consented anew meanwhile, and the newest consent wins.
            self._drop(case, pair, "W6")
            return
        for process in case.wise:
            if process is call.by and not process.dead and process not in knowing:
                raise Verdict(
                    "healing", f"{process.host.name} had {pair}, which the store lost, and gave it up"
                )
        if not knowing:
            self._drop(case, pair, "W6")

    def _drop(self, case: Case, pair: str, window: str) -> None:
        self.excused[window] += 1
        call = case.caught.pop(pair)
        case.in_hand.discard(pair)
        call.lost(self.world.now())

    def _escrow(self, host: Host, token: str) -> set[str]:
        return kept_in_escrow(host.directory, token) if not host.abandoned else set()

    # true-death

    def _check_death(self, name: str, record: Record | None) -> None:
        if record is None or not record.is_dead() or record.refresh is None:
            return
        self.judged["true-death"] += 1
        if self.world.provider.introspect(record.refresh.value)["active"]:
            raise Verdict("true-death", f"{name} is declared dead, and the provider would serve it")

    # freshness

    def _check_readers(self, name: str, case: Case, record: Record | None) -> None:
        world, now = self.world, self.world.now()
        if world.scenario.steps_clocks:
            return
        if self.is_held(name) or not self._is_definite(case, record):
            case.troubled_at = now
        able = [host for host in world.hosts if self._able_for(host) >= SETTLING]
        if now - case.troubled_at < SETTLING or not able:
            return
        while case.costs and case.costs[0][0] < now - COST_COUNTS:
            case.costs.popleft()
        owed = self._times.min_validity - self._error - sum(cost for _, cost in case.costs)
        if owed <= 0:
            return
        for host in able:
            shown = host.shelves.get(name)
            self.judged["freshness"] += 1
            left = shown[-1].access.seconds_left(now) if shown else 0.0
            if left < owed:
                raise Verdict("freshness", f"{host.name} shows {name} with {left:.0f} s left")

    def is_held(self, name: str) -> bool:
        """Tell whether a daemon published what the store lost, and waits for whoever has it (window W6)."""
        if not self.cases[name].fell_back_at:
            return False
        return any(process.renewers[name]._fallen_back for process in self.world.processes())

    def _is_definite(self, case: Case, record: Record | None) -> bool:
        """Tell whether the provider gives answers, and nobody waits for one that was lost."""
        if record is None or record.access is None or record.is_dead() or record.backoff is not None:
            return False
        case.pending = [call for call in case.pending if call.fate == "pending"]
        if any(self.world.now() - call.began > RETRY for call in case.pending):
            return False
        if record.access.ttl != self.world.scenario.ttl or record.access.repeated_at is not None:
            return False
        attempt = record.attempt
        if attempt is None:
            return True
        holder = self.world.host(attempt.instance)
        return attempt.in_doubt_since is None and holder is not None and self._able_for(holder) >= 0

    # progress

    def unwell(self) -> str:
        """Tell what is not as it should be at rest; empty when all is well."""
        for name in self.cases:
            record = self.record(name)
            if record is None or record.refresh is None:
                return f"{name} has no refresh token"
            if not self.world.provider.introspect(record.refresh.value)["active"]:
                return f"the grant of {name} is gone"
            if record.attempt is not None:
                return f"an attempt for {name} is under way"
            for host in self.world.hosts:
                if not host.abandoned and (told := self._unwell_at(host, name)):
                    return f"{host.name}: {name} {told}"
        return ""

    def _unwell_at(self, host: Host, name: str) -> str:
        turn = host.events.get(name)
        if host.process is None or not isinstance(turn, TurnEnded):
            return "has had no turn"
        if host.frozen_until > self.world.now():
            return "has a daemon that stands still"
        if turn.view.grant_state is not GrantState.OK:
            return f"is {turn.view.grant_state} ({turn.view.reason})"
        shown = host.shelves.get(name)
        if not shown or shown[-1].access.seconds_left(self.world.now()) <= 0:
            return "is shown expired"
        return ""


def _meaning(answer: Answer) -> tuple[str | None, str]:
    """Tell the new refresh token in an answer, and what the answer is worth."""
    if 300 <= answer.status < 500 or answer.status == 503:
        return None, "dead" if b"invalid_grant" in answer.body else "refused"
    try:
        members = json.loads(answer.body)
    except ValueError:
        return None, "lost"
    if answer.status != 200 or "access_token" not in members:
        return None, "lost"
    successor = members.get("refresh_token")
    return successor, "caught" if successor else "answered"


def _is_in(record: Record, pair: str) -> bool:
    if record.refresh is not None and record.refresh.fingerprint == pair:
        return True
    return any(orphan.refresh.fingerprint == pair for orphan in record.orphans)


def _is_history(record: Record, pair: str, call: Call, *, used: bool) -> bool:
    """Tell whether it was used, or gave way to a newer consent."""
    return pair in record.replaced and (used or record.lineage != call.lineage)


def _knows(process: Process, token: str, pair: str) -> bool:
    record = process.renewers[token].record
    if record is None:
        return False
    held = {orphan.refresh.fingerprint for orphan in record.orphans} | set(record.replaced)
    return pair in held or (record.refresh is not None and record.refresh.fingerprint == pair)


def kept_in_escrow(directory: Path, token: str) -> set[str]:
    """Name the refresh tokens in the answers that a `state_dir` keeps."""
    found = set()
    for entry in Escrow(directory).entries():
        if entry.key != f"test/{token}":
            continue
        if entry.answer is not None:
            successor, _ = _meaning(entry.answer)
            found |= {fingerprint(successor)} if successor else set()
        if entry.base.refresh is not None:
            found.add(entry.base.refresh.fingerprint)
    return found
