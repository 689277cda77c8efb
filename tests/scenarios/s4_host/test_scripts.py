"""A plain host: `~/.secrets`, scripts that meet a 401 together, cron jobs with and without a daemon."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import config, contents
from sidecar.errors import ConfigError
from sidecar.testing import faults
from tests import forks
from tests.e2e.conftest import PROJECT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.testing import Simulator
    from tests.e2e.conftest import Daemon, MakeDaemon, MakeSimulator

HOWTO = PROJECT / "docs" / "howto" / "refresh-after-401.md"
SCRIPTS = 20
PATIENCE = 150
"""Seconds: twenty interpreters start at once, on a machine that may be busy with other tests."""

pytestmark = pytest.mark.timeout(240)
CACHE, REFRESH_TOKEN, CLIENT = "google_token.json", "refresh_token.json", "gmail_credentials.json"


class Host:
    """A user's home directory, the daemon that it is configured for, and commands as the user types them."""

    def __init__(self, daemon: Daemon, simulator: Simulator) -> None:
        self.daemon = daemon
        self.simulator = simulator
        self.secrets = daemon.folder / "home" / ".secrets"
        self.secrets.mkdir(parents=True)
        self.secrets.chmod(0o700)
        self.header = daemon.out / "gmail.header"
        self.hook = daemon.folder / "told"
        self.refresh_token = simulator.provider.new_grant()
        config = simulator.provider.config
        self.put(REFRESH_TOKEN, json.dumps({"refresh_token": self.refresh_token}))
        client = {"client_id": config.client_id, "client_secret": config.client_secret}
        self.put(CLIENT, json.dumps({"installed": client}))
        daemon.config["providers"] = {"google": {"token_url": simulator.token_url}}
        daemon.config["tokens"]["gmail"] = {
            "provider": "google",
            "client": {"file": "${SECRETS_DIR:-~/.secrets}/" + CLIENT},
            "seed": "${SECRETS_DIR:-~/.secrets}/" + REFRESH_TOKEN,
            "outputs": [
                {"file": "${SECRETS_DIR:-~/.secrets}/" + CACHE, "mode": "0600"},
                {"file": str(self.header), "format": "header"},
            ],
            "after_refresh": [
                {"exec": {"argv": ["/bin/sh", "-c", f"echo told >> {shlex.quote(str(self.hook))}"]}}
            ],
        }
        bins = daemon.folder / "bin"
        bins.mkdir()
        shim = bins / "token-sidecar"
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sidecar "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
        daemon.environment = {
            "HOME": str(self.secrets.parent),
            "PATH": f"{bins}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "TOKEN_SIDECAR_CONFIG": str(daemon.path),
        }
        daemon.write_config()

    def put(self, name: str, text: str) -> None:
        """Write a file of the user's."""
        (self.secrets / name).write_text(text, encoding="utf-8")
        (self.secrets / name).chmod(0o600)

    def begin(self, *command: str) -> subprocess.Popen[str]:
        """Start `token-sidecar` with these arguments."""
        return self._started(forks.Popen, "sidecar", *command)

    def script(self, text: str) -> subprocess.Popen[str]:
        """Start a script of the user's, which calls `token-sidecar` as users do."""
        return self._started(subprocess.Popen, "/bin/sh", "-c", text)

    def _started(self, start: type[subprocess.Popen[str]], *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **self.daemon.environment}
        pipe = subprocess.PIPE
        return start(command, env=environment, cwd="/", text=True, stdout=pipe, stderr=pipe)

    def run(self, *command: str) -> tuple[int, str]:
        """Run `token-sidecar` with these arguments; return exit code and all that it wrote."""
        return ended(self.begin(*command))

    @property
    def calls(self) -> int:
        """Count the provider's requests."""
        return len(self.simulator.provider.report().requests)

    @property
    def cached(self) -> str:
        """The access token that scripts find."""
        document: dict[str, Any] = json.loads((self.secrets / CACHE).read_text(encoding="utf-8"))
        return str(document["access_token"])

    @property
    def told(self) -> int:
        """Count how often the hook ran."""
        return len(self.hook.read_text(encoding="utf-8").splitlines()) if self.hook.exists() else 0

    def withdraw(self) -> None:
        """Have the provider end the present access token, long before its time."""
        config = self.simulator.provider.config
        client = {"client_id": config.client_id, "client_secret": config.client_secret or ""}
        self.simulator.provider.revocation({"token": self.cached, **client})
        assert not self.simulator.provider.is_live(self.cached)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out + err


@pytest.fixture
def host(make_daemon: MakeDaemon, make_simulator: MakeSimulator) -> Host:
    """Make a host, with a daemon that doesn't run yet."""
    return Host(make_daemon(), make_simulator(access_ttl=3600))


def the_pattern(url: str) -> str:
    """Return the script of the how-to, for another API and another file."""
    [script] = re.findall(r"```sh\n(.*?)```", HOWTO.read_text(encoding="utf-8"), re.DOTALL)
    assert "https://api.example/things" in script
    return str(script).replace("https://api.example/things", url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_twenty_scripts_meet_the_same_401(host: Host) -> None:
    """The how-to's script, word for word, twenty times at once: all get their answer, and the provider one request."""
    host.daemon.start()
    script = the_pattern(f"{host.simulator.url}/resource").replace(
        "/run/tokens/gmail.header", str(host.header)
    )
    assert (host.secrets / CACHE).stat().st_mode & 0o777 == 0o600
    host.withdraw()
    before, refused = host.calls, host.cached

    scripts = [host.script(script) for _ in range(SCRIPTS)]
    answers = [ended(process) for process in scripts]

    assert [answer for answer in answers if answer[0] != 0] == []
    assert all('"active": true' in told.replace('":true', '": true') for _, told in answers), answers
    assert host.calls == before + 1
    assert host.cached != refused
    assert host.simulator.provider.is_live(host.cached)
    assert host.simulator.provider.report().resource_denied >= SCRIPTS // 2, "they did meet the 401"
    assert host.daemon.stop() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_an_api_in_trouble_is_no_reason_to_refresh(host: Host) -> None:
    """The how-to's script asks for a new token after a 401, and after nothing else."""
    host.daemon.start()
    before = host.calls
    for url in (f"{host.simulator.url}/nothing-is-here", "http://127.0.0.1:9/things"):
        code, told = ended(
            host.script(the_pattern(url).replace("/run/tokens/gmail.header", str(host.header)))
        )
        assert code != 0, told
    assert host.calls == before
    assert host.daemon.stop() == 0


def test_cron_jobs_share_one_refresh(host: Host) -> None:
    """Several `run --once` in the same minute, without a daemon: one refreshes, and all find its token."""
    jobs = [host.begin("run", "--once", "--wait", "50s") for _ in range(5)]
    answers = [ended(job) for job in jobs]

    assert [code for code, _ in answers] == [0] * len(jobs), answers
    assert host.calls == 1
    assert host.told == 1, "a hook is neither broken off and begun anew, nor told by each of them"

    code, _ = host.run("run", "--once", "--wait", "50s")
    assert (code, host.calls, host.told) == (0, 1, 1), "nothing is due, so nothing is done"


def test_a_hook_under_way_is_seen_to_its_end(host: Host) -> None:
    """A job whose last token has come doesn't break off what the first one's hook is doing, only to begin it anew."""
    [hook] = host.daemon.config["tokens"]["gmail"]["after_refresh"]
    hook["exec"]["argv"][-1] += "; sleep 3"
    host.daemon.add(host.simulator, "zz-drive")
    host.daemon.write_config()
    host.simulator.provider.add_fault(faults.latency(before=1.0, skip=1))

    code, told = host.run("run", "--once", "--wait", "50s")
    assert code == 0, told
    assert (host.calls, host.told) == (2, 1)


def test_a_cron_job_refreshes_what_is_due(host: Host) -> None:
    """A token that lives yet, and is due, is replaced before the job ends."""
    assert host.run("run", "--once", "--wait", "50s")[0] == 0
    first = host.cached
    host.daemon.change(refresh_at=0.0001, min_interval="1ms")
    host.daemon.write_config()

    def replaced() -> bool:
        code, told = host.run("run", "--once", "--wait", "50s")
        assert code == 0, told
        return host.cached != first

    wait_until(replaced, what="a job found it due, a second after the first")
    # On a slow machine the next one may be due before the job has ended.
    assert 2 <= host.told <= host.calls


def test_a_cron_job_beside_a_daemon_lets_it_work(host: Host) -> None:
    """It calls nobody, and ends well as soon as the daemon is well."""
    host.simulator.provider.add_fault(faults.latency(before=1.5))
    host.daemon.launch()
    host.daemon.wait_until(lambda: host.calls == 1, "it waits for the provider")
    code, told = host.run("run", "--once", "--wait", "50s")
    assert (code, host.calls) == (0, 1), told
    assert host.simulator.provider.is_live(host.cached)
    assert host.daemon.stop() == 0


def test_a_cron_job_beside_a_daemon_says_who_must_act(host: Host) -> None:
    """Its exit codes are those that it has alone: 3 for a human, 4 when its time is up."""
    host.put(REFRESH_TOKEN, "")
    host.daemon.launch()
    host.daemon.wait_until(lambda: host.daemon.answers("/startupz", 503), "it is unseeded")
    code, told = host.run("run", "--once", "--wait", "50s")
    assert code == 3, told
    assert "token-sidecar login gmail" in told

    host.simulator.provider.add_fault(faults.status(503, times=None))
    host.put(REFRESH_TOKEN, json.dumps({"refresh_token": host.refresh_token}))
    host.daemon.wait_until(lambda: host.calls > 0, "it tries")
    code, told = host.run("run", "--once", "--wait", "300ms")
    assert code == 4, told
    assert host.daemon.stop() == 0


def test_without_a_daemon_refresh_does_it_alone(host: Host) -> None:
    """Scripts of a host with cron alone meet a 401: one call, whoever comes first."""
    assert host.run("run", "--once", "--wait", "50s")[0] == 0
    (host.daemon.folder / "refused").write_text(host.cached, encoding="utf-8")
    host.withdraw()
    refused = str(host.daemon.folder / "refused")

    callers = [host.begin("refresh", "gmail", "--rejected-file", refused) for _ in range(4)]

    assert [code for code, _ in map(ended, callers)] == [0] * len(callers)
    assert host.calls == 2
    assert host.simulator.provider.is_live(host.cached)


def broken(host: Host, what: str) -> Iterator[str]:
    """Break one thing of the layout; give what has to be named."""
    match what:
        case "the directory":
            shutil.rmtree(host.secrets)
            yield str(host.secrets)
        case "the refresh token":
            host.put(REFRESH_TOKEN, '{"refresh_token": ')
            yield REFRESH_TOKEN
        case "the client":
            (host.secrets / CLIENT).unlink()
            yield CLIENT
        case "the client's id":
            host.put(CLIENT, "{}")
            yield CLIENT
        case _:
            host.secrets.chmod(0o777)
            yield f"chmod o-w {host.secrets}"


@pytest.mark.parametrize(
    "what", ["the directory", "the refresh token", "the client", "the client's id", "its mode"]
)
def test_what_is_wrong_is_named(host: Host, what: str) -> None:
    """Each thing that the host's own refresher looked at before is looked at by `check`, which names it."""
    [named] = broken(host, what)
    path = host.daemon.write_config()
    try:
        found = [*config.load(path, env=host.daemon.environment, also=contents.check).warnings]
    except ConfigError as error:
        found = error.problems
    else:
        assert what == "its mode", "all else is an error"
    assert [line for line in found if named in line], found


def test_nothing_is_cached_that_the_provider_refused(host: Host) -> None:
    """Only a success is written; what it was instead is said."""
    host.simulator.provider.add_fault(faults.status(500, times=None))
    code, told = host.run("run", "--once", "--wait", "3s")
    assert code == 4, told
    assert "HTTP 500" in told
    assert not (host.secrets / CACHE).exists()


def test_a_diagnosis_tells_the_state_and_tries_the_connection(host: Host) -> None:
    """`doctor` looks at files, store and provider, and refreshes nothing."""
    host.daemon.start()
    code, told = host.run("doctor", "--json")
    assert code == 0, told
    assert host.calls == 1
    assert host.daemon.stop() == 0
