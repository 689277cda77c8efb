"""The console's routes: who may ask for what, and what is done then."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sidecar import links
from sidecar.console import pages, views
from sidecar.console.access import Role, address_of, asker
from sidecar.console.flows import Flow
from sidecar.console.refusal import Refused
from sidecar.console.results import Job
from sidecar.console.words import moment
from sidecar.enrol.code import NotOurs, members
from sidecar.errors import (
    ConfigError,
    ConsentRefused,
    SidecarError,
    TemporarilyUnavailable,
    UnknownToken,
    UsageError,
)
from sidecar.events import Audited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from sidecar.console.access import Access, Cookies, LinkAccess, Visitor
    from sidecar.console.agent import Agent
    from sidecar.console.flows import Flows
    from sidecar.console.limits import Limit
    from sidecar.console.results import Jobs
    from sidecar.console.signing import Signer
    from sidecar.events import Event

BODY_LIMIT = 4 * 1024
"""Bytes of a form."""
MOST_FIELDS = 8
FORM = "form"
FORM_TYPE = "application/x-www-form-urlencoded"

_NOT_EXPECTED = (
    "This is not the answer to a consent that began in this browser, within ten minutes and for this provider, or it "
    "was here before. Nothing was changed. Begin again on the token's page."
)

_log = structlog.get_logger("sidecar.console")


class Site:
    """The application's parts, and its handlers."""

    def __init__(  # noqa: PLR0913 - one for each part
        self,
        *,
        url: str,
        agent: Agent,
        access: Access,
        cookies: Cookies,
        signer: Signer,
        flows: Flows,
        jobs: Jobs,
        askers: Limit,
        actors: Limit,
        refusals: Limit,
        emit: Callable[[Event], None],
        session: float,
    ) -> None:
        """`askers` limits pages, `actors` what changes something, `refusals` what the audit log is told of those.

        `session` is a form's life in seconds.
        """
        self._url = url
        self._agent = agent
        self._access = access
        self._cookies = cookies
        self._signer = signer
        self._flows = flows
        self._jobs = jobs
        self._askers, self._actors, self._refusals = askers, actors, refusals
        self._emit = emit
        self._session = session
        self.routes: list[Route] = []

    def app(self) -> Starlette:
        """Build the application."""
        user, operator = partial(self._page, Role.USER), partial(self._page, Role.OPERATOR)
        act, run = partial(self._action, Role.USER), partial(self._action, Role.OPERATOR)
        self.routes = [
            Route("/", user(self.overview)),
            Route("/accounts", user(self.accounts)),
            Route("/tokens/{name:path}", operator(self.token)),
            Route("/results/{id}", user(self.result)),
            Route("/callback", user(self.no_answer)),
            Route("/callback/{provider:path}", user(self.callback)),
            Route("/consent", run(self.consent), methods=["POST"]),
            Route("/add", run(self.add), methods=["POST"]),
            Route("/connect", act(self.connect), methods=["POST"]),
            Route("/disconnect", act(self.disconnect), methods=["POST"]),
            Route("/refresh", run(self.refresh), methods=["POST"]),
            Route("/revoke", run(self.revoke), methods=["POST"]),
            Route("/static/{name}", self._static),
        ]
        if self._access.can_sign_out:
            self.routes += [
                Route("/sign-in", self.sign_in),
                Route("/sign-out", act(self.sign_out), methods=["POST"]),
            ]
        handlers = {HTTPException: _no_such_page, SidecarError: _failed, Exception: _crashed}
        app = Starlette(routes=self.routes, exception_handlers=handlers)  # type: ignore[arg-type]
        # It would build an address out of what the browser says.
        app.router.redirect_slashes = False
        return app

    # Who may

    def _page(
        self, role: Role, handle: Callable[[Request, Visitor], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Make the endpoint of a page."""

        async def endpoint(request: Request) -> Response:
            visitor = None
            try:
                visitor = self._access.visitor(request)
                self._check_pace(request, visitor)
                admitted = _admitted(visitor, role)
                return self._with_cookie(await handle(request, admitted), admitted)
            except Refused as refused:
                return self._turned_away(request, visitor, refused)

        return endpoint

    def _action(
        self, role: Role, handle: Callable[[Request, Visitor, dict[str, str]], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Make the endpoint of what changes something."""

        async def endpoint(request: Request) -> Response:
            visitor = None
            try:
                visitor = self._access.visitor(request)
                self._check_pace(request, visitor)
                admitted = _admitted(visitor, role)
                self._check_origin(request)
                form = await _form(request)
                self._check_form(form, admitted)
                return await handle(request, admitted, form)
            except Refused as refused:
                return self._turned_away(request, visitor, refused)

        return endpoint

    def _check_pace(self, request: Request, visitor: Visitor | None) -> None:
        if not self._askers.admits(_counted_as(request, visitor)):
            raise Refused(429, "Too fast", "There were too many requests. Wait a minute.")

    def _check_origin(self, request: Request) -> None:
        """Let nobody else's page send a form (CSRF): browsers say where a form comes from."""
        origins, sites = request.headers.getlist("origin"), request.headers.getlist("sec-fetch-site")
        foreign = any(origin != self._url for origin in origins) or any(
            site != "same-origin" for site in sites
        )
        if foreign or not (origins or sites):
            raise Refused(
                403, "Not from here", "The form was not sent from a page of the console. Nothing was done."
            )

    def _check_form(self, form: dict[str, str], visitor: Visitor) -> None:
        if not self._actors.admits(visitor.user):
            raise Refused(429, "Too fast", "That is more than one person does. Wait a minute.")
        if self._signer.read(FORM, form.get("csrf", ""), max_age=self._session) != visitor.session:
            raise Refused(
                403, "Too old", "The page that this was sent from is too old, or another's. Load it again."
            )

    def _turned_away(self, request: Request, visitor: Visitor | None, refused: Refused) -> Response:
        who = _counted_as(request, visitor)
        if self._refusals.admits(who):
            left_out = self._refusals.missed(who)
            more = f" ({left_out} before it are not written down)" if left_out else ""
            reason = f"{request.method} {refused.status}: {refused.text or refused.title}{more}"
            self._audit(request, visitor, "request", "refused", reason=reason)
        if refused.status == 401 and self._access.can_sign_out:  # noqa: PLR2004
            return HTMLResponse(pages.sign_in(), refused.status)
        return HTMLResponse(pages.message(refused.title, refused.text), refused.status)

    def _with_cookie(self, response: Response, visitor: Visitor) -> Response:
        if visitor.cookie:
            response.set_cookie(
                self._cookies.name,
                visitor.cookie,
                path="/",
                secure=self._cookies.secure,
                httponly=True,
                samesite="lax",
            )
        return response

    def _frame(self, visitor: Visitor) -> pages.Frame:
        return pages.Frame(
            user=visitor.user,
            operator=visitor.operator,
            csrf=self._signer.sign(FORM, visitor.session),
            sign_out=self._access.can_sign_out,
            enrolment=bool(self._agent.enrolling),
        )

    def _audit(
        self,
        request: Request,
        visitor: Visitor | None,
        what: str,
        outcome: str,
        token: str = "",
        fingerprint: str = "",
        reason: str = "",
    ) -> None:
        who = visitor.user if visitor is not None else ""
        self._emit(Audited(who, what, outcome, token, fingerprint, reason, address_of(request)))

    # Pages

    async def overview(self, request: Request, visitor: Visitor) -> Response:
        """Show every token."""
        if not visitor.operator:
            return _sent_on("/accounts")
        agent = self._agent
        found, unreadable = await agent.everything()
        view = views.overview(
            agent.settings,
            found,
            agent.now(),
            live=await agent.live(),
            unreadable=unreadable,
            asked=views.asked(request.query_params),
        )
        return HTMLResponse(pages.overview(self._frame(visitor), view))

    async def accounts(self, _request: Request, visitor: Visitor) -> Response:
        """Show a user's own accounts."""
        agent = self._agent
        names = {of: agent.own(of, visitor.user) for of in agent.enrolling}
        found = await agent.records(names.values())
        records = {of: found[name] for of, name in names.items()}
        view = views.accounts(agent.settings, visitor.user, records, agent.now())
        return HTMLResponse(pages.accounts(self._frame(visitor), view))

    async def token(self, request: Request, visitor: Visitor) -> Response:
        """Show one token."""
        name, agent = request.path_params["name"], self._agent
        agent.token(name)
        record, live = await agent.record(name), (await agent.live(name)).get(name)
        view = views.token(agent.settings, name, record, agent.now(), live=live)
        return HTMLResponse(pages.token(self._frame(visitor), view))

    async def result(self, request: Request, visitor: Visitor) -> Response:
        """Show what came of an action, once it is over."""
        job = self._jobs.find(request.path_params["id"], visitor.session)
        if job is None:
            raise Refused(
                404, "Not known", "What came of this is not known any more. The token's page tells."
            )
        await self._jobs.wait(job, visitor.user)
        return HTMLResponse(pages.result(self._frame(visitor), job.result))

    async def _static(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        if name not in pages.STATIC:
            raise HTTPException(404)
        kind = pages.STATIC[name]
        return Response(pages.static(name), media_type=kind, headers={"cache-control": "max-age=300"})

    # Consents

    async def consent(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Response:
        """Send the browser to the provider."""
        name = form.get("token", "")
        return await self._consent(request, visitor, name, Role.OPERATOR, links.token(name))

    async def add(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Response:
        """Send the browser to the provider for an account that a set doesn't have yet."""
        name = self._agent.member(form.get("set", ""), form.get("account", "").strip())
        return await self._consent(request, visitor, name, Role.OPERATOR, links.token(name))

    async def connect(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Response:
        """Send a user to the provider for an account of their own."""
        name = self._agent.own(form.get("set", ""), visitor.user)
        return await self._consent(request, visitor, name, Role.USER, "/accounts")

    async def _consent(
        self, request: Request, visitor: Visitor, name: str, role: Role, back: str
    ) -> Response:
        agent, what = self._agent, "consent" if role is Role.OPERATOR else "connect"
        provider = agent.provider_of(name)
        nonce, state = self._flows.new_state(name, what)
        authorization, title, since = await agent.authorization(
            name, f"{self._url}/callback/{provider}", state
        )
        flow = Flow(name, what, role, visitor.session, provider, since, authorization, back)
        self._flows.begin(nonce, flow)
        self._audit(request, visitor, what, "begun", name)
        page = pages.leading(self._frame(visitor), token=name, provider=title, url=authorization.url)
        return HTMLResponse(page)

    async def callback(self, request: Request, visitor: Visitor) -> Response:
        """Take a provider's answer out of the address bar, and do what it says."""
        query: str = request.scope["query_string"].decode("latin-1") if request.method == "GET" else ""
        try:
            state = members(query).get("state", "")
        except NotOurs:
            state = ""
        flow = self._flows.take(state, visitor.session, request.path_params["provider"])
        if flow is None:
            raise Refused(400, "Not expected", _NOT_EXPECTED)
        job = Job(visitor.session, "consent", flow.token, flow.back)
        try:
            # Who was an operator when it began may be none by now.
            _admitted(visitor, flow.role)
            code = flow.authorization.code(query)
        except (Refused, SidecarError) as error:
            outcome = "refused" if isinstance(error, Refused | ConsentRefused) else "failed"
            reason = str(error).removesuffix(".")
            self._audit(request, visitor, flow.what, outcome, flow.token, reason=reason)
            job.end(f"{reason}.", worked=False)
            self._jobs.keep(job)
        else:
            self._jobs.begin(job, partial(self._redeem, request, visitor, flow, code, job))
        return _sent_on(f"/results/{job.id}")

    async def no_answer(self, _request: Request, _visitor: Visitor) -> Response:
        """Say what became of an answer that was of no use: browsers are sent here, to an address without its code."""
        return HTMLResponse(pages.message("Not expected", _NOT_EXPECTED), 400)

    async def _redeem(self, request: Request, visitor: Visitor, flow: Flow, code: str, job: Job) -> None:
        async def work() -> tuple[str, str, str]:
            seeding = await flow.authorization.redeem(code)
            scopes = flow.authorization.scopes
            reply, text = await self._agent.store(flow.token, seeding, scopes, flow.since, job.tell)
            return "aside" if reply.aside else "done", reply.fingerprint, text

        await self._worked(request, visitor, flow.what, flow.token, job, work)

    async def _worked(
        self,
        request: Request,
        visitor: Visitor,
        what: str,
        token: str,
        job: Job,
        work: Callable[[], Awaitable[tuple[str, str, str]]],
    ) -> None:
        """Do it, and tell browser and audit log what came of it."""
        try:
            outcome, fingerprint, text = await work()
        except SidecarError as error:
            self._audit(request, visitor, what, "failed", token, reason=str(error))
            job.end(f"{error}.", worked=False)
        except Exception:  # noqa: BLE001 - whatever it is, the browser waits to be told
            self._audit(request, visitor, what, "failed", token, reason="an unexpected error")
            job.end("An unexpected error ended it; the console's log has more.", worked=False)
            _log.exception(f"{what} of {token} ended by an unexpected error; this is a bug in token-sidecar")
        else:
            self._audit(request, visitor, what, outcome, token, fingerprint)
            job.end(text, worked=True)

    # The other actions

    async def refresh(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Response:
        """Refresh now."""
        name = form.get("token", "")
        self._agent.token(name)
        job = Job(visitor.session, "refresh", name, links.token(name))

        async def work() -> tuple[str, str, str]:
            reply = await self._agent.refresh(name, job.tell)
            return "done", reply.fingerprint, f"{reply.message}."

        self._jobs.begin(job, partial(self._worked, request, visitor, "refresh", name, job, work))
        return _sent_on(f"/results/{job.id}")

    async def revoke(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Response:
        """End a grant at its provider."""
        name = form.get("token", "")
        self._agent.token(name)
        return self._revoked(request, visitor, name, "revoke", links.token(name))

    async def disconnect(self, request: Request, visitor: Visitor, form: dict[str, str]) -> Response:
        """End the grant of a user's own account."""
        name = self._agent.own(form.get("set", ""), visitor.user)
        return self._revoked(request, visitor, name, "disconnect", "/accounts")

    def _revoked(self, request: Request, visitor: Visitor, name: str, what: str, back: str) -> Response:
        job = Job(visitor.session, what, name, back)

        async def work() -> tuple[str, str, str]:
            ends = (await self._agent.revoke(name, job.tell)).access_expires_at
            text = f"The grant of {name} is revoked. It counts as dead until somebody consents again."
            if ends is not None and ends > (now := self._agent.now()):
                text += f" Readers keep the last access token, which ends at {moment(ends, now).exact} at the latest."
            return "done", "", text

        self._jobs.begin(job, partial(self._worked, request, visitor, what, name, job, work))
        return _sent_on(f"/results/{job.id}")

    # In and out

    async def sign_in(self, request: Request) -> Response:
        """Open a one-time link."""
        access: LinkAccess = self._access  # type: ignore[assignment]
        try:
            self._check_pace(request, access.visitor(request))
        except Refused as refused:
            return self._turned_away(request, None, refused)
        key = request.query_params.get("key", "")
        # A preview of the link that only asks for its headers doesn't spend it.
        if not key or request.method == "HEAD":
            return HTMLResponse(pages.sign_in(), 401)
        visitor = access.sign_in(key)
        if visitor is None:
            self._audit(request, None, "sign-in", "refused")
            return _sent_on("/sign-in")
        self._audit(request, visitor, "sign-in", "done")
        return self._with_cookie(_sent_on("/"), visitor)

    async def sign_out(self, request: Request, visitor: Visitor, _form: dict[str, str]) -> Response:
        """End a session."""
        access: LinkAccess = self._access  # type: ignore[assignment]
        access.sign_out(visitor)
        self._audit(request, visitor, "sign-out", "done")
        response = _sent_on("/sign-in")
        response.delete_cookie(
            self._cookies.name, path="/", secure=self._cookies.secure, httponly=True, samesite="lax"
        )
        return response


def _counted_as(request: Request, visitor: Visitor | None) -> str:
    """Name whom limits count: behind a proxy, all people come from one address."""
    return f"user {visitor.user}" if visitor is not None else asker(address_of(request))


def _admitted(visitor: Visitor | None, role: Role) -> Visitor:
    if visitor is None:
        raise Refused(401, "Not signed in", "")
    if role is Role.OPERATOR and not visitor.operator:
        raise Refused(403, "Not for you", "This is for operators alone: see console.operators.")
    return visitor


def _sent_on(path: str) -> Response:
    return RedirectResponse(path, 303)


async def _form(request: Request) -> dict[str, str]:
    """Read a form in which nothing comes twice. Raises `Refused`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise Refused(415, "No form", "Only the forms of the console's own pages are taken.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise Refused(413, "Too long", "No form of the console is as long as this one.")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
        )
    except ValueError:
        pairs = [("", ""), ("", "")]
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused(400, "No form", "Only the forms of the console's own pages are taken.")
    return dict(pairs)


def _no_such_page(_request: Request, error: HTTPException) -> Response:
    titles = {404: "Nothing here", 405: "Not allowed"}
    text = {404: "There is no such page.", 405: "This address doesn't take that method."}.get(
        error.status_code, ""
    )
    page = pages.message(titles.get(error.status_code, "Not answered"), text)
    return HTMLResponse(page, error.status_code, headers=error.headers)


def _failed(_request: Request, error: SidecarError) -> Response:
    match error:
        case UnknownToken():
            return HTMLResponse(
                pages.message("No such token", "The configuration has no token of this name."), 404
            )
        case UsageError() | ConfigError():
            return HTMLResponse(pages.message("Not possible", f"{error}."), 400)
        case _:
            away = error.exit_code == TemporarilyUnavailable.exit_code
            title = "Not now" if away else "It did not work"
            return HTMLResponse(pages.message(title, f"{error}."), 503 if away else 502)


def _crashed(_request: Request, _error: Exception) -> Response:
    return HTMLResponse(pages.message("A bug", "An unexpected error; the console's log has more."), 500)
