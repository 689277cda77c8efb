"""An agent of agno that sends mails with its Gmail toolkit, as a process of its own.

`python -m tests.scenarios.s5_agents.agents FOLDER API_URL TOKEN_URL` does what each line of its standard input says,
and answers with a line. API_URL stands for Google's API, TOKEN_URL for Google's token endpoint: agno and Google's
libraries are used as they are otherwise. Requests are lines of JSON:

    {"do": "run", "user": "alice"}     an agent's run for this user, with the toolkit made for the run
    {"do": "keep", "user": "alice"}    the same with one toolkit that is kept for the life of the process
    {"do": "later", "seconds": 3600}   time passes, for Google's libraries

Answers have what the tool said (`said`), and what the toolkit did that it must not need (`calls`).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import google.auth._helpers
import google.oauth2.credentials
import httplib2
from agno.agent import Agent
from agno.models.base import Model
from agno.models.response import ModelResponse
from agno.tools.google.gmail import GmailTools

from tests.scenarios.s1_basketball_api.application import tell

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "agents.md"
GOOGLE = "https://gmail.googleapis.com"


class Scripted(Model):
    """Stands in for what an agent asks for its next step, which is always the same: to send a mail."""

    def invoke(self, messages: list[Any], *_: Any, **__: Any) -> ModelResponse:
        """Ask for the tool, and say what it said."""
        said = [message.content for message in messages if message.role == "tool"]
        if said:
            return ModelResponse(role="assistant", content=str(said[-1]))
        arguments = json.dumps({"to": "coach@example.com", "subject": "practice", "body": "At six."})
        call = {"id": "1", "type": "function", "function": {"name": "send_email", "arguments": arguments}}
        return ModelResponse(role="assistant", tool_calls=[call])

    async def ainvoke(self, *_: Any, **__: Any) -> ModelResponse:
        """Not asked."""
        raise NotImplementedError

    def invoke_stream(self, *_: Any, **__: Any) -> Iterator[ModelResponse]:
        """Not asked."""
        raise NotImplementedError

    def ainvoke_stream(self, *_: Any, **__: Any) -> AsyncIterator[ModelResponse]:
        """Not asked."""
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **_: Any) -> ModelResponse:
        raise NotImplementedError

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        raise NotImplementedError


class Agents:
    """The application."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, Agent] = {}
        self._agent = as_the_page_says(folder)

    def do(self, request: dict[str, Any]) -> str:
        """Do what is asked; returns what the tool said."""
        user = request.get("user", "")
        match request["do"]:
            case "run":
                agent = self._agent
            case "keep":
                toolkit = GmailTools(token_path=str(self._folder / f"{user}.json"))
                agent = self._kept.setdefault(user, Agent(model=Scripted("scripted"), tools=[toolkit]))
            case _:
                pass_time(request["seconds"])
                return ""
        return str(agent.run("Tell the coach when practice is.", user_id=user).content)


def as_the_page_says(folder: Path) -> Agent:
    """Make the agent by the how-to's own lines."""
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"model": Scripted("scripted")}
    exec(block.replace("/run/tokens", str(folder)), names)  # noqa: S102 - our own documentation
    agent: Agent = names["agent"]
    return agent


def pass_time(seconds: float) -> None:
    """Let Google's libraries believe that so much time has passed."""
    helpers: Any = google.auth._helpers
    utcnow = helpers.utcnow
    helpers.utcnow = lambda: utcnow() + dt.timedelta(seconds=seconds)


def stand_in(api_url: str, token_url: str) -> None:
    """Put the loopback in Google's place."""
    request = httplib2.Http.request

    def asked(http: Any, uri: str, *args: Any, **kwargs: Any) -> Any:
        return request(http, uri.replace(GOOGLE, api_url), *args, **kwargs)

    httplib2.Http.request = asked
    google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT = token_url


def count_calls(calls: Counter[str]) -> None:
    """Count refreshes and writes, and let them happen."""

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return original(*args, **kwargs)

        setattr(owner, name, call)

    counted(google.oauth2.credentials.Credentials, "refresh")
    counted(Path, "write_text")


def main() -> None:
    """Answer until there is nothing more to do."""
    folder, api_url, token_url = sys.argv[1:]
    os.environ |= {"GOOGLE_OAUTH_NONINTERACTIVE": "1", "AGNO_TELEMETRY": "false"}
    calls: Counter[str] = Counter()
    stand_in(api_url, token_url)
    count_calls(calls)
    agents = Agents(Path(folder))
    for line in sys.stdin:
        tell(said=agents.do(json.loads(line)), calls=dict(calls))
        calls.clear()


if __name__ == "__main__":
    main()
