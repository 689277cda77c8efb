"""An OAuth2 provider as a pure state machine: no network, no sleeping, no clock but the injected one.

Everything public is safe to call from any thread. The way of a request: `Provider.receive` notes its arrival
and picks the scripted fault, `Exchange.process` runs the token endpoint, then `Exchange.answered` or
`Exchange.cut` tells what became of the answer. `Provider.token` does all of it at once.
"""

from __future__ import annotations

import json
import math
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from email.utils import formatdate
from typing import Any

from sidecar.profile import GrantType
from sidecar.testing import consents, shapes
from sidecar.testing.authentication import Assertions, Refused, authenticate, method_used
from sidecar.testing.config import (
    ACCESS_PREFIX,
    REFRESH_PREFIX,
    GraceAnswer,
    ProviderConfig,
    Rotation,
    new_secret,
)
from sidecar.testing.families import AccessToken, Family, RefreshToken
from sidecar.testing.faults import NO_FAULT, Delivery, Fault, FaultScript, Reply
from sidecar.testing.report import (
    FamilyReport,
    Fate,
    Report,
    RequestRecord,
    TokenUses,
    fingerprint,
)

REFRESH_TOKEN = "refresh_token"
CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
LIVING_TOKEN = "fb_exchange_token"
"""Facebook's name for a grant and for its parameter; `extra_params` and `param_names` have others'."""
KNOWN_GRANT_TYPES = frozenset(
    {
        REFRESH_TOKEN,
        CLIENT_CREDENTIALS,
        JWT_BEARER,
        TOKEN_EXCHANGE,
        LIVING_TOKEN,
        consents.AUTHORIZATION_CODE,
        consents.DEVICE_CODE,
    }
)


class NoAnswer(ConnectionError):
    """The connection ended before a whole answer had come."""


class Exchange:
    """One request to the token endpoint, from its arrival to the fate of its answer."""

    def __init__(self, provider: Provider, request: _Request, fault: Fault, number: int) -> None:
        """Made by `Provider.receive`."""
        self.fault = fault
        self._provider = provider
        self._request = request
        self._number = number

    def process(self) -> Reply:
        """Run the token endpoint unless the fault keeps the request from it; call it once."""
        return self._provider._process(self._number, self._request, self.fault)  # noqa: SLF001

    def answered(self) -> None:
        """Note that the whole answer went out. A later `cut` takes it back."""
        self._provider._finish(self._number, self._request, Fate.ANSWERED)  # noqa: SLF001

    def cut(self) -> None:
        """Note that the client didn't get the whole answer."""
        self._provider._finish(self._number, self._request, Fate.CUT)  # noqa: SLF001


@dataclass(slots=True)
class _Request:
    form: Mapping[str, str]
    authorization: str | None
    malformed: str | None
    used: bool = False
    """The token endpoint has counted it as a use of its refresh token."""


class Provider:
    """A simulated OAuth2 provider with one client."""

    def __init__(
        self,
        config: ProviderConfig | None = None,
        *,
        now: Callable[[], float] = time.time,
        on_change: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`now` gives seconds since the epoch; `on_change` is called with `snapshot()` before each answer."""
        self._config = config or ProviderConfig()
        self._now = now
        self._on_change = on_change
        self._changed = threading.Condition(threading.RLock())
        self._held_time: float | None = None
        self._assertions = Assertions(self.clock)
        self._consents = consents.Consents(self.clock)
        self._faults = FaultScript()
        self._families: dict[str, Family] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._requests: list[RequestRecord] = []
        self._in_flight = 0
        self._max_in_flight = 0
        self._resource_granted = 0
        self._resource_denied = 0

    # What a client does.

    def token(self, form: Mapping[str, str], authorization: str | None = None) -> Reply:
        """Answer `POST /token` at once, latencies left out; raises `NoAnswer` where a fault says so.

        `form` holds the body's parameters (RFC 6749 section 3.2), `authorization` the header's value.
        """
        exchange = self.receive(form, authorization)
        reply = exchange.process()
        if exchange.fault.delivery not in (Delivery.WHOLE, Delivery.TRICKLE):
            exchange.cut()
            raise NoAnswer(exchange.fault.delivery)
        exchange.answered()
        return reply

    def receive(
        self,
        form: Mapping[str, str],
        authorization: str | None = None,
        *,
        malformed: str | None = None,
        connection: int = 0,
    ) -> Exchange:
        """Note that a request has arrived. `malformed` says what makes it an invalid_request on sight."""
        grant_type = form.get("grant_type", "")
        presented = form.get(REFRESH_TOKEN)
        print_ = fingerprint(presented) if presented else None
        with self._changed:
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            if presented in self._refresh_tokens:
                self._refresh_tokens[presented].presented += 1
            fault = self._faults.take(grant_type, print_)
            record = RequestRecord(
                at=self._now(),
                grant_type=grant_type if grant_type in KNOWN_GRANT_TYPES else "other",
                fingerprint=print_,
                client_auth=method_used(form, authorization),
                connection=connection,
                outcome="pending",
                status=None,
                fate=Fate.PENDING,
                faulted=fault is not NO_FAULT,
            )
            self._requests.append(record)
            self._touch()
            return Exchange(self, _Request(form, authorization, malformed), fault, len(self._requests) - 1)

    def resource(self, authorization: str | None) -> Reply:
        """Answer `GET /resource`: 200 for a live Bearer token, else 401 (RFC 6750 section 3)."""
        scheme, _, token = (authorization or "").partition(" ")
        with self._instant():
            live = scheme.lower() == "bearer" and self.is_live(token)
            if not live:
                self._resource_denied += 1
                self._touch()
                return self._json(
                    401, {"active": False}, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
                )
            self._resource_granted += 1
            self._end_grace(self._access_tokens[token].replaces)
            self._touch()
            return self._json(200, {"active": True})

    def introspection(self, form: Mapping[str, str], authorization: str | None = None) -> Reply:
        """Answer `POST /introspect` (RFC 7662)."""
        with self._instant():
            try:
                authenticate(self._config, form, authorization, self._assertions)
            except Refused as refused:
                return self._refusal(refused)
            return self._json(200, self.introspect(form.get("token", "")))

    def revocation(self, form: Mapping[str, str], authorization: str | None = None) -> Reply:
        """Answer `POST /revoke` (RFC 7009): ends the grant of a refresh token, or one access token."""
        token = form.get("token", "")
        with self._instant():
            try:
                authenticate(self._config, form, authorization, self._assertions)
            except Refused as refused:
                return self._refusal(refused)
            if token in self._refresh_tokens:
                self._kill(self._family_of(token), "revoked")
            elif token in self._access_tokens:
                self._access_tokens[token].revoked = True
            self._touch()
            return self._json(200, {})

    def authorization(self, query: Mapping[str, str]) -> Reply:
        """Answer `GET /authorize` (RFC 6749 section 4.1.1): the user decides at once, as `consent` says."""
        with self._instant():
            try:
                location = self._consents.authorize(self._config, query)
            except Refused as refused:
                # Nobody is sent to an address that isn't the client's (section 4.1.2.1).
                return self._refusal(refused)
            self._touch()
            if location is None:
                return self._json(200, {"waiting": "for the user"})
            return replace(self._json(302, {}, {"Location": location}), body=b"")

    def device_authorization(self, form: Mapping[str, str], authorization: str | None = None) -> Reply:
        """Answer `POST /device` (RFC 8628 section 3.1)."""
        with self._instant():
            try:
                authenticate(self._config, form, authorization, self._assertions)
            except Refused as refused:
                return self._refusal(refused)
            return self._json(200, self._consents.device(self._config, form.get("scope", "")))

    # What a test does.

    @property
    def config(self) -> ProviderConfig:
        """The behaviour in force."""
        with self._changed:
            return self._config

    def reconfigure(self, **changes: Any) -> ProviderConfig:
        """Change the behaviour from the next request on; tokens that exist keep their expiry."""
        with self._changed:
            self._config = replace(self._config, **changes)
            self._touch()
            return self._config

    def clock(self) -> float:
        """Tell the provider's time: the injected clock plus `clock_skew`."""
        with self._changed:
            now = self._now() if self._held_time is None else self._held_time
            return now + self._config.clock_skew

    def new_grant(self, scope: str = "") -> str:
        """Make a grant, as if a user had just consented, and return its refresh token."""
        with self._instant():
            now = self.clock()
            family = Family(f"grant-{secrets.token_hex(4)}", self._config.client_id, scope, now)
            self._families[family.id] = family
            refresh = self._new_refresh_token(family, parent=None)
            self._touch()
            return refresh.token

    def new_living_token(self, scope: str = "") -> str:
        """Make a grant that has an access token and no refresh token, and return the former."""
        with self._instant():
            family = Family(f"grant-{secrets.token_hex(4)}", self._config.client_id, scope, self.clock())
            self._families[family.id] = family
            access = self._new_access_token(family, scope)
            self._touch()
            return access.token

    def kill(self, which: str | None = None, reason: str = "killed") -> int:
        """End grants, named by refresh token, fingerprint or family id, or all of them; say how many."""
        with self._changed:
            victims = [family for family in self._families.values() if self._is_meant(family, which)]
            for family in victims:
                self._kill(family, reason)
            self._touch()
            return len(victims)

    def add_fault(self, *added: Fault) -> None:
        """Append to the script of faults."""
        with self._changed:
            for fault in added:
                self._faults.add(fault)
            self._touch()

    def clear_faults(self) -> None:
        """Behave again."""
        with self._changed:
            self._faults.clear()
            self._touch()

    def is_live(self, access_token: str) -> bool:
        """Tell whether the provider would accept this access token now."""
        with self._changed:
            access = self._access_tokens.get(access_token)
            return access is not None and not access.revoked and self.clock() < access.expires_at

    def introspect(self, token: str) -> dict[str, Any]:
        """Describe an access or refresh token in the form of RFC 7662 section 2.2. Not a use of it."""
        with self._instant():
            if self.is_live(token):
                access = self._access_tokens[token]
                return {
                    "active": True,
                    "token_type": "Bearer",
                    "client_id": access.client_id,
                    "scope": access.scope,
                    "iat": int(access.issued),
                    "exp": None if math.isinf(access.expires_at) else int(access.expires_at),
                }
            refresh = self._refresh_tokens.get(token)
            if refresh is None or refresh.replaced_at is not None or not self._is_usable(refresh):
                return {"active": False}
            family = self._families[refresh.family]
            return {"active": True, "client_id": family.client_id, "scope": family.scope}

    def uses(self, refresh_token: str) -> int:
        """Count the requests with this refresh token that were processed for an authenticated client."""
        with self._changed:
            known = self._refresh_tokens.get(refresh_token)
            return known.uses if known else 0

    def reused(self) -> list[str]:
        """List the fingerprints of refresh tokens with more than one use."""
        with self._changed:
            return [fingerprint(t.token) for t in self._refresh_tokens.values() if t.uses > 1]

    def replayed(self) -> list[str]:
        """List the fingerprints of refresh tokens used after they had been replaced, in grace or not."""
        with self._changed:
            return [fingerprint(t.token) for t in self._refresh_tokens.values() if t.replays]

    def wait_until(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Block until an event here makes `condition` true; False when `timeout` seconds have passed."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def report(self) -> Report:
        """Tell everything that was seen, without secrets."""
        with self._changed:
            return Report(
                requests=tuple(self._requests),
                tokens=tuple(_token_uses(token) for token in self._refresh_tokens.values()),
                reused=tuple(self.reused()),
                replayed=tuple(self.replayed()),
                in_flight=self._in_flight,
                max_in_flight=self._max_in_flight,
                resource_granted=self._resource_granted,
                resource_denied=self._resource_denied,
                families=tuple(self._family_report(family) for family in self._families.values()),
                faults_armed=len(self._faults),
            )

    def snapshot(self) -> dict[str, Any]:
        """Give grants, tokens and their use counts as JSON values, with every secret: keep it private."""
        with self._changed:
            return {
                "client_id": self._config.client_id,
                "client_secret": self._config.client_secret,
                "families": [asdict(family) for family in self._families.values()],
                "refresh_tokens": [asdict(token) for token in self._refresh_tokens.values()],
                "access_tokens": [asdict(t) for t in self._access_tokens.values() if self.is_live(t.token)],
            }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave. The log of requests starts anew."""
        with self._changed:
            self._config = replace(
                self._config, client_id=snapshot["client_id"], client_secret=snapshot["client_secret"]
            )
            self._families = {entry["id"]: Family(**entry) for entry in snapshot["families"]}
            self._refresh_tokens = {
                entry["token"]: RefreshToken(**entry) for entry in snapshot["refresh_tokens"]
            }
            self._access_tokens = {
                entry["token"]: AccessToken(**entry) for entry in snapshot["access_tokens"]
            }
            self._touch()

    # The life of an exchange.

    def _process(self, number: int, request: _Request, fault: Fault) -> Reply:
        with self._instant():
            reply, outcome = self._json(200, {}), "unprocessed"
            if fault.processed:
                reply, outcome = self._answer(request, fault)
            reply = fault.reshape(reply, self.clock())
            self._requests[number] = replace(self._requests[number], outcome=outcome, status=reply.status)
            self._touch()
            return reply

    def _finish(self, number: int, request: _Request, fate: Fate) -> None:
        with self._changed:
            before = self._requests[number].fate
            if before is fate:
                return
            if before is Fate.PENDING:
                self._in_flight -= 1
            self._requests[number] = replace(self._requests[number], fate=fate)
            if request.used:
                token = self._refresh_tokens[request.form[REFRESH_TOKEN]]
                token.answered += (fate is Fate.ANSWERED) - (before is Fate.ANSWERED)
                token.cut += (fate is Fate.CUT) - (before is Fate.CUT)
            self._touch()

    def _answer(self, request: _Request, fault: Fault) -> tuple[Reply, str]:
        profile = self._config.profile
        try:
            members, outcome = self._grant(request, repeat=fault.repeat_access_token)
        except Refused as refused:
            status, document = shapes.refusal(profile, refused.error, refused.description, refused.status)
            return self._json(status, document, _challenge(status)), refused.error
        document = shapes.success(profile, members, self.clock())
        if not self._config.form_answers:
            return self._json(200, document), outcome
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return replace(self._json(200, {}, headers), body=shapes.form_encoded(document)), outcome

    def _grant(self, request: _Request, *, repeat: bool) -> tuple[dict[str, Any], str]:
        form, profile = request.form, self._config.profile
        if request.malformed:
            raise Refused("invalid_request", request.malformed)
        if profile.grant is GrantType.GITHUB_INSTALLATION:
            token = (request.authorization or "").removeprefix("Bearer ")
            # GitHub's assertions have no `jti`, and may be used for as long as they live.
            self._assertions.verified(token, self._config, once=False)
            return self._client_credentials("")
        grant_type = form.get("grant_type")
        if not grant_type:
            raise Refused("invalid_request", "grant_type is missing")
        if grant_type == JWT_BEARER and request.authorization is None:
            # Its assertion says who the client is (RFC 7521 section 4.1).
            claims = self._assertions.verified(form.get("assertion", ""), self._config, "invalid_grant")
            return self._client_credentials(form.get("scope") or str(claims.get("scope", "")))
        authenticate(self._config, form, request.authorization, self._assertions)
        if grant_type == REFRESH_TOKEN:
            return self._refresh(request, repeat=repeat)
        if grant_type in {consents.AUTHORIZATION_CODE, consents.DEVICE_CODE}:
            return self._consented(form)
        if grant_type == CLIENT_CREDENTIALS:
            return self._client_credentials(form.get("scope", ""))
        if grant_type == TOKEN_EXCHANGE:
            return self._exchange(form.get("subject_token"), form.get("scope", ""))
        if grant_type == profile.extra_params.get("grant_type", LIVING_TOKEN):
            return self._prolong(form.get(LIVING_TOKEN, ""))
        raise Refused("unsupported_grant_type", f"this provider knows {', '.join(sorted(KNOWN_GRANT_TYPES))}")

    # The grants.

    def _consented(self, form: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """Redeem what a consent was answered with; a code that comes twice ends what it gave (section 4.1.2)."""
        config = self._config
        try:
            consent = self._consents.redeem(config, form)
        except consents.Replayed as replayed:
            if replayed.family in self._families:
                self._kill(self._families[replayed.family], "its authorization code was used again")
            raise
        family = Family(f"grant-{secrets.token_hex(4)}", config.client_id, consent.scope, self.clock())
        self._families[family.id] = family
        consent.family = family.id
        refresh = self._new_refresh_token(family, parent=None) if consent.offline else None
        members = self._members(self._new_access_token(family, consent.scope), refresh)
        if "openid" in consent.scope.split():
            members["id_token"] = consents.id_token(config, consent, self.clock())
        return members, "issued"

    def _exchange(self, subject: str | None, scope: str) -> tuple[dict[str, Any], str]:
        """Trade in a token of somebody else's (RFC 8693), whom nobody asks."""
        if not subject:
            raise Refused("invalid_request", "subject_token is missing")
        members = self._members(self._new_access_token(None, scope), None)
        return {**members, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "issued"

    def _prolong(self, living: str) -> tuple[dict[str, Any], str]:
        """Exchange an access token, which has to be alive, for another one."""
        if not self.is_live(living):
            raise Refused("invalid_grant", "the access token has expired")
        before = self._access_tokens[living]
        family = self._families[before.family] if before.family else None
        return self._members(self._new_access_token(family, before.scope), None), "prolonged"

    def _client_credentials(self, scope: str) -> tuple[dict[str, Any], str]:
        if self._config.scopes and not set(scope.split()) <= self._config.scopes:
            raise Refused("invalid_scope", "a requested scope is not open to this client")
        return self._members(self._new_access_token(None, scope), None), "issued"

    def _refresh(self, request: _Request, *, repeat: bool) -> tuple[dict[str, Any], str]:
        """Redeem a refresh token (RFC 6749 section 6)."""
        presented = request.form.get(REFRESH_TOKEN)
        if not presented:
            raise Refused("invalid_request", "refresh_token is missing")
        token = self._refresh_tokens.get(presented)
        if token is None:
            raise Refused("invalid_grant", "unknown refresh token")
        token.uses += 1
        request.used = True
        family = self._families[token.family]
        if token.replaced_at is not None:
            token.replays += 1
            return self._replay(token, family)
        if family.client_id != self._config.client_id:
            raise Refused("invalid_grant", "the refresh token was issued to another client")
        if not self._is_usable(token):
            raise Refused("invalid_grant", family.killed or "the refresh token has expired")
        wanted = request.form.get("scope") or family.scope
        if not set(wanted.split()) <= set(family.scope.split()):
            raise Refused("invalid_scope", "the requested scope exceeds the granted one")
        return self._redeem(token, family, wanted, repeat=repeat)

    def _redeem(
        self, token: RefreshToken, family: Family, scope: str, *, repeat: bool
    ) -> tuple[dict[str, Any], str]:
        token.last_used = self.clock()
        self._end_grace(token.parent)
        current = self._repeatable(family, repeat=repeat)
        if current is not None:
            return self._members(current, token if self._config.repeat_refresh_token else None), "same_token"
        family.refreshes += 1
        if self._rotates(family):
            return self._rotate(token, family, scope), "rotated"
        access = self._new_access_token(family, scope)
        return self._members(access, token if self._config.repeat_refresh_token else None), "unrotated"

    def _rotate(self, token: RefreshToken, family: Family, scope: str) -> dict[str, Any]:
        child = self._new_refresh_token(family, parent=token.token)
        access = self._new_access_token(family, scope, replaces=token.token)
        if token.replaced_at is None:
            token.replaced_at = self.clock()
        token.child = child.token
        token.child_access = access.token
        return self._members(access, child)

    def _replay(self, token: RefreshToken, family: Family) -> tuple[dict[str, Any], str]:
        """Answer a refresh token that was replaced: by its grace window, else as stolen."""
        child = self._refresh_tokens[token.child or ""]
        if family.killed or not self._in_grace(token) or not self._is_usable(child):
            if self._config.reuse_kills_family:
                self._kill(family, "a replaced refresh token was used again")
            raise Refused("invalid_grant", "the refresh token was replaced")
        if self._config.grace_answer is GraceAnswer.NEW:
            return self._rotate(token, family, family.scope), "grace"
        if not self.is_live(token.child_access or ""):
            token.child_access = self._new_access_token(family, family.scope, replaces=token.token).token
        return self._members(self._access_tokens[token.child_access or ""], child), "grace"

    def _rotates(self, family: Family) -> bool:
        if self._config.rotation is not Rotation.SOMETIMES:
            return self._config.rotation is Rotation.ALWAYS
        if self._config.rotation_probability is None:
            return family.refreshes % self._config.rotate_every == 0
        # Drawn from the count rather than from a stream, so that a restart goes on where it was.
        drawn = random.Random(f"{self._config.random_seed}:{family.refreshes}").random()  # noqa: S311
        return drawn < self._config.rotation_probability

    def _repeatable(self, family: Family, *, repeat: bool) -> AccessToken | None:
        """Give the grant's living access token if it is to be answered once more."""
        current = family.current_access or ""
        if not self.is_live(current):
            return None
        access = self._access_tokens[current]
        left = access.expires_at - self.clock()
        until = self._config.same_token_until
        return access if repeat or (until is not None and left > until) else None

    # Tokens.

    def _new_refresh_token(self, family: Family, parent: str | None) -> RefreshToken:
        token = RefreshToken(new_secret(REFRESH_PREFIX), family.id, self.clock(), parent)
        self._refresh_tokens[token.token] = token
        return token

    def _new_access_token(
        self, family: Family | None, scope: str, replaces: str | None = None
    ) -> AccessToken:
        now = self.clock()
        access = AccessToken(
            token=new_secret(ACCESS_PREFIX),
            family=family.id if family else None,
            client_id=self._config.client_id,
            scope=scope,
            issued=now,
            expires_at=now + self._config.access_ttl,
            replaces=replaces,
        )
        if family is not None:
            if self._config.kills_old_access_token:
                self._revoke_access_tokens(family)
            family.current_access = access.token
        self._access_tokens[access.token] = access
        return access

    def _members(self, access: AccessToken, refresh: RefreshToken | None) -> dict[str, Any]:
        """Compose a successful answer (RFC 6749 section 5.1)."""
        now = self.clock()
        members: dict[str, Any] = {
            "access_token": access.token,
            "token_type": "Bearer",
            "expires_in": _seconds(access.expires_at - now),
        }
        if access.scope:
            members["scope"] = access.scope
        if refresh is not None:
            members["refresh_token"] = refresh.token
            ends = self._refresh_expiry(refresh)
            if ends is not None and self._config.announce_refresh_expiry:
                members["refresh_token_expires_in"] = _seconds(ends - now)
        return members

    def _refresh_expiry(self, token: RefreshToken) -> float | None:
        limits = (
            (self._families[token.family].created, self._config.refresh_ttl),
            (token.last_used, self._config.refresh_idle_ttl),
        )
        return min((start + ttl for start, ttl in limits if ttl is not None), default=None)

    def _is_usable(self, token: RefreshToken) -> bool:
        ends = self._refresh_expiry(token)
        return self._families[token.family].killed is None and (ends is None or self.clock() < ends)

    def _in_grace(self, token: RefreshToken) -> bool:
        age = self.clock() - (token.replaced_at or 0.0)
        return not token.grace_over and self._config.grace > 0 and age <= self._config.grace

    def _end_grace(self, replaced: str | None) -> None:
        if self._config.grace_until_used and replaced is not None:
            self._refresh_tokens[replaced].grace_over = True

    def _kill(self, family: Family, reason: str) -> None:
        family.killed = family.killed or reason
        self._revoke_access_tokens(family)

    def _revoke_access_tokens(self, family: Family) -> None:
        for access in self._access_tokens.values():
            if access.family == family.id:
                access.revoked = True

    def _family_of(self, refresh_token: str) -> Family:
        return self._families[self._refresh_tokens[refresh_token].family]

    def _is_meant(self, family: Family, which: str | None) -> bool:
        if which is None or which == family.id:
            return True
        members = (t.token for t in self._refresh_tokens.values() if t.family == family.id)
        return any(which in (token, fingerprint(token)) for token in members)

    # Answers and the record.

    @contextmanager
    def _instant(self) -> Iterator[None]:
        """Hold the lock and the clock: a token is announced with the life that it was made with."""
        with self._changed:
            outer = self._held_time
            self._held_time = self._now() if outer is None else outer
            try:
                yield
            finally:
                self._held_time = outer

    def _json(
        self, status: int, members: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Reply:
        fixed = {
            "Content-Type": "application/json;charset=UTF-8",
            "Cache-Control": "no-store",
            "Pragma": "no-cache",
            "Date": formatdate(self.clock(), usegmt=True),
        }
        return Reply(status, {**fixed, **(headers or {})}, json.dumps(members).encode())

    def _refusal(self, refused: Refused) -> Reply:
        members = {"error": refused.error, "error_description": refused.description}
        return self._json(refused.status, members, _challenge(refused.status))

    def _family_report(self, family: Family) -> FamilyReport:
        own = [token for token in self._refresh_tokens.values() if token.family == family.id]
        active = (t for t in own if t.replaced_at is None and self._is_usable(t))
        return FamilyReport(
            id=family.id,
            scope=family.scope,
            created=family.created,
            killed=family.killed,
            refreshes=family.refreshes,
            active_refresh_tokens=tuple(fingerprint(token.token) for token in active),
            live_access_tokens=sum(
                access.family == family.id and self.is_live(access.token)
                for access in self._access_tokens.values()
            ),
        )

    def _touch(self) -> None:
        """Wake whoever waits and persist; the lock is held."""
        self._changed.notify_all()
        if self._on_change is not None:
            self._on_change(self.snapshot())


def _seconds(left: float) -> int | float:
    """Round down to whole seconds, as RFC 6749 section 5.1 asks; below one second that would be 0."""
    return int(left) if 1 <= left < math.inf else round(left, 3)


def _challenge(status: int) -> dict[str, str]:
    return {"WWW-Authenticate": 'Basic realm="token"'} if status == 401 else {}  # noqa: PLR2004


def _token_uses(token: RefreshToken) -> TokenUses:
    return TokenUses(
        fingerprint=fingerprint(token.token),
        family=token.family,
        presented=token.presented,
        uses=token.uses,
        answered=token.answered,
        cut=token.cut,
        replays=token.replays,
        replaced=token.replaced_at is not None,
    )
