"""Commands while no daemon runs: they work on the store, with the daemon's own engine."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidecar.tokens import fingerprint
from tests.cli.conftest import Place


def test_from_a_seed_to_a_token(place: Place) -> None:
    """A seed goes into the store, a refresh publishes a token, and `token` prints that token alone."""
    assert "starts anew" in place.ok("seed", "gmail", "--file", str(place.new_seed()))
    assert "generation 1" in place.ok("refresh", "gmail")

    printed = place.ok("token", "gmail")
    assert printed == json.loads(place.output.read_text(encoding="utf-8"))["access_token"] + "\n"
    assert place.provider.is_live(printed.strip())


def test_a_seed_from_standard_input(place: Place) -> None:
    """A bare refresh token in a pipe is a seed."""
    place.ok("seed", "gmail", stdin=place.provider.new_grant() + "\n")
    assert "generation 1" in place.ok("refresh", "gmail")


def test_a_spent_seed_needs_force(seeded: Place) -> None:
    """A refresh token that was used for this token before is refused, and taken with --force."""
    again = seeded.run("seed", "gmail", "--file", str(seeded.seed))
    assert again.returncode == 1
    assert "already used" in again.stderr

    reply = json.loads(seeded.ok("seed", "gmail", "--file", str(seeded.seed), "--force", "--json"))
    token = json.loads(seeded.seed.read_text(encoding="utf-8"))["refresh_token"]
    assert reply["fingerprint"] == fingerprint(token)


@pytest.mark.parametrize("content", ["", "{", '{"installed": {}}', "two words"])
def test_what_is_no_seed_is_refused(content: str, place: Place) -> None:
    """A seed that can't be understood is one line, and changes nothing."""
    done = place.run("seed", "gmail", "--file", str(place.private("bad", content)))

    assert done.returncode in {1, 2}
    assert len(done.stderr.splitlines()) == 1
    assert place.ok("store", "list") == "the store holds no records\n"


def test_unknown_tokens_are_usage_errors(place: Place) -> None:
    """A name that is not configured is told together with those that are."""
    for command in ("token", "refresh", "seed", "export", "status"):
        done = place.run(command, "gmial")
        assert (done.returncode, "has: gmail" in done.stderr) == (2, True)


def test_before_the_seed_a_human_must_act(place: Place) -> None:
    """Exit code 3 says that nothing but a seed or a login helps."""
    codes = {command: place.run(command, "gmail").returncode for command in ("token", "refresh", "status")}

    assert codes == {"token": 3, "refresh": 3, "status": 3}
    assert place.run("export", "gmail").returncode == 3
    assert place.calls() == 0


def test_a_seed_that_no_daemon_took_yet_is_told(place: Place) -> None:
    """With a seed in the configuration nobody is sent to consent for no more reason than that no daemon runs."""
    place.token["seed"] = str(place.new_seed())
    place.write()

    told = place.run("status").stdout
    assert "gmail: there is no refresh token yet; a daemon that starts takes the seed's; consent: " in told
    assert "again" not in told


def test_a_seeded_token_is_not_there_yet(seeded: Place) -> None:
    """Exit code 4 says that it comes by itself."""
    assert seeded.run("token", "gmail").returncode == 4
    assert seeded.run("status").returncode == 4


def test_a_dead_grant(seeded: Place) -> None:
    """A refusal by the provider is exit code 3, in every command that needs the grant."""
    seeded.ok("refresh", "gmail")
    seeded.provider.kill()
    before = seeded.calls()

    refused = seeded.run("refresh", "gmail")
    assert (refused.returncode, seeded.calls()) == (3, before + 1)
    [line] = refused.stderr.splitlines()
    assert "the grant is dead" in line
    assert "token-sidecar seed gmail" in line
    status = seeded.run("status", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["tokens"]["gmail"]["grant_state"] == "dead"


def test_a_failed_refresh_calls_once(seeded: Place) -> None:
    """A first refresh that fails is not tried again by the same command."""
    seeded.provider.kill()
    before = seeded.calls()

    assert seeded.run("refresh", "gmail").returncode == 3
    assert seeded.calls() == before + 1


def test_the_provider_is_down(seeded: Place) -> None:
    """Exit code 4 says that the provider could not be reached, and the token is still printed."""
    seeded.ok("refresh", "gmail")
    seeded.simulator.stop()

    assert seeded.run("refresh", "gmail").returncode == 4
    assert seeded.ok("token", "gmail").startswith("sim-at-")


def test_a_token_that_was_replaced_already(seeded: Place) -> None:
    """Naming a token that is not the present one causes no call."""
    seeded.ok("refresh", "gmail")
    old = seeded.output.read_bytes()
    seeded.ok("refresh", "gmail", "--rejected-file", str(seeded.output))
    before = seeded.calls()

    reply = seeded.ok("refresh", "gmail", "--rejected-file", "-", "--json", stdin=old.decode())
    assert json.loads(reply)["refreshed"] is False
    assert seeded.calls() == before


def test_many_callers_cause_one_call(seeded: Place) -> None:
    """Scripts that refresh at the same time take turns, and find what the first one brought."""
    seeded.ok("refresh", "gmail")
    rejected = seeded.root / "rejected"
    rejected.write_bytes(seeded.output.read_bytes())
    before = seeded.calls()

    callers = [
        seeded.begin("refresh", "gmail", "--rejected-file", str(rejected), stdout=subprocess.DEVNULL)
        for _ in range(6)
    ]
    assert [caller.wait(40) for caller in callers] == [0] * 6
    assert seeded.calls() == before + 1


@pytest.mark.parametrize("layout", ["json", "gmail-sdk", "google-authorized-user", "raw"])
def test_what_was_exported_can_be_seeded(layout: str, seeded: Place) -> None:
    """Every format of `export` is understood by `seed`, and holds the same refresh token."""
    seeded.ok("refresh", "gmail")
    file = seeded.root / "exported"

    seeded.ok("export", "gmail", "--format", layout, "--output", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    seeded.ok("seed", "gmail", "--file", str(file), "--force")
    assert seeded.ok("export", "gmail", "--format", "raw").strip() in file.read_text(encoding="utf-8")
    assert seeded.run("refresh", "gmail").returncode == 0


def test_a_token_that_was_never_refreshed_can_be_exported(seeded: Place) -> None:
    """A refresh token alone is exported in a form that `seed` reads."""
    exported = seeded.ok("export", "gmail")

    seeded.ok("seed", "gmail", "--force", stdin=exported)
    assert json.loads(exported)["refresh_token"] in seeded.seed.read_text(encoding="utf-8")


def test_an_export_overwrites_nothing(seeded: Place) -> None:
    """A file that is there is kept, unless --force is given; links are not followed."""
    link, target = seeded.root / "link", seeded.private("mine", "mine")
    link.symlink_to(target)

    assert seeded.run("export", "gmail", "--output", str(link)).returncode == 2
    seeded.ok("export", "gmail", "--output", str(link), "--force")
    assert (target.read_text(encoding="utf-8"), link.is_symlink()) == ("mine", False)
    assert stat.S_IMODE(link.stat().st_mode) == 0o600


def on_a_terminal(place: Place, *arguments: str, answer: str = "") -> tuple[int, str]:
    """Run a command on a pseudo-terminal; return its exit code and what the human saw."""
    master, slave = pty.openpty()
    process = place.begin(*arguments, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
            # Not before it is asked for: what was typed ahead of a hidden prompt is thrown away.
            if answer and shown.endswith(b": "):
                os.write(master, answer.encode())
                answer = ""
    except OSError:
        pass  # Linux' way of saying that the other end is closed.
    os.close(master)
    return process.wait(20), shown.decode()


def test_secrets_are_shown_on_a_terminal_after_a_yes(seeded: Place) -> None:
    """`export` asks a human before the refresh token stands on the screen."""
    code, shown = on_a_terminal(seeded, "export", "gmail", "--format", "raw", answer="n\n")
    assert (code, "sim-rt-" in shown) == (1, False)

    code, shown = on_a_terminal(seeded, "export", "gmail", "--format", "raw", answer="y\n")
    assert (code, "sim-rt-" in shown) == (0, True)
    code, shown = on_a_terminal(seeded, "export", "gmail", "--format", "raw", "--yes")
    assert (code, "sim-rt-" in shown) == (0, True)


def test_a_seed_is_typed_unseen(place: Place) -> None:
    """On a terminal `seed` asks for the refresh token, and doesn't echo it."""
    code, shown = on_a_terminal(place, "seed", "gmail", answer=place.provider.new_grant() + "\n")

    assert code == 0
    assert "Refresh token of gmail" in shown


def test_status_draws_on_a_terminal(seeded: Place) -> None:
    """A terminal gets a drawn table, a pipe gets columns."""
    seeded.ok("refresh", "gmail")

    _, drawn = on_a_terminal(seeded, "status")
    plain = seeded.ok("status")
    assert ("█" in drawn, "\x1b[" in drawn) == (True, True)
    assert plain.splitlines()[0].split() == [
        *("TOKEN", "ACCESS", "LEFT", "GENERATION"),
        *("GRANT", "CONSENT", "OUTPUTS"),
    ]
    assert plain.splitlines()[1].split()[:2] == ["gmail", "fresh"]
    assert plain.isascii()


@pytest.mark.parametrize(
    ("key", "place_of_it", "words"),
    [
        ("refresh_token_ttl", "token", "by 20.*, in .*: refresh_token_ttl, counted from the consent"),
        ("refresh_ttl", "provider", "by 20.*: so long do this provider's grants last from the consent"),
        ("refresh_idle_ttl", "provider", "by 20.*, unless a refresh succeeds before: this provider forgets"),
    ],
)
def test_status_says_by_when_a_human_must_consent(
    key: str, place_of_it: str, words: str, seeded: Place
) -> None:
    """And what that follows from; the same moment is in the document for machines."""
    (seeded.token if place_of_it == "token" else seeded.token["provider"])[key] = "7d"
    seeded.write()
    seeded.ok("refresh", "gmail")

    told = seeded.ok("status")
    assert re.search(f"gmail: a human must consent again {words}", told), told
    shown = json.loads(seeded.ok("status", "--json"))["tokens"]["gmail"]
    assert 6 * 86400 < shown["refresh_expires_at"] - time.time() <= 7 * 86400
    assert shown["refresh_life"] == 7 * 86400
    assert (shown["refresh_expiry_rule"] == "idle") == ("idle" in key)
    assert bool(re.search(r"  6d\d\dh left of 7d  ", told)) == ("idle" not in key), told
    [row] = json.loads(seeded.ok("store", "list", "--json"))
    assert row["refresh_expires_at"] == shown["refresh_expires_at"]


def test_status_names_the_scopes_that_are_missing(place: Place) -> None:
    """What was asked for and not granted is told in a line of its own, and is no failure."""
    place.token["scopes"] = ["mail", "files"]
    place.write()
    place.ok("seed", "gmail", stdin=place.provider.new_grant(scope="mail"))
    place.ok("refresh", "gmail")

    told = place.ok("status")
    assert "gmail: the access token lacks scopes that were asked for, or granted before: files" in told
    assert json.loads(place.ok("status", "--json"))["tokens"]["gmail"]["missing_scopes"] == ["files"]


def test_status_says_where_it_comes_from(seeded: Place) -> None:
    """Without a daemon the store answers, and that is said."""
    done = seeded.run("status")
    assert "no daemon answers" in done.stderr
    assert json.loads(seeded.run("status", "--json").stdout)["source"] == "store"


def test_reading_creates_nothing(place: Place) -> None:
    """Neither `status` nor `token` makes a store, or a state directory."""
    for arguments in (("status",), ("token", "gmail"), ("store", "list"), ("healthcheck",)):
        place.run(*arguments)

    assert not (place.root / "tokens.db").exists()
    assert not (place.root / "state").exists()


def test_a_store_in_memory_needs_the_daemon(place: Place) -> None:
    """Where only the daemon knows, its absence is temporary unavailability."""
    place.document["store"] = "memory:"
    place.write()

    assert place.run("status").returncode == 4
    assert place.run("token", "gmail").returncode == 4


def test_records_can_be_listed(seeded: Place) -> None:
    """`store list` shows key, lineage, generation and state."""
    [row] = json.loads(seeded.ok("store", "list", "--json"))

    assert (row["key"], row["generation"], row["state"]) == ("default/gmail", 0, "ok")
    assert (row["configured"], len(row["lineage"])) == (True, 12)
    assert "default/gmail" in seeded.ok("store", "list")


def test_migrate_creates_the_store(place: Place) -> None:
    """`store migrate` makes what the daemon would make at its start; twice does no harm."""
    for _ in range(2):
        assert place.ok("store", "migrate") == "the sqlite store is up to date and holds 0 records\n"
    assert (place.root / "tokens.db").exists()


def test_a_renamed_record_keeps_its_grant(seeded: Place) -> None:
    """A token that is renamed in the configuration goes on with the record under its new name."""
    seeded.ok("refresh", "gmail")
    assert seeded.ok("store", "rename", "gmail", "post") == "default/gmail is default/post now\n"
    seeded.document["tokens"] = {"post": seeded.token}
    seeded.write()

    assert "generation 2" in seeded.ok("refresh", "post")
    [row] = json.loads(seeded.ok("store", "list", "--json"))
    assert row["key"] == "default/post"


def test_renaming_overwrites_nothing(seeded: Place) -> None:
    """A record that has the new name already is kept, and so is the old one."""
    seeded.ok("store", "rename", "gmail", "elsewhere/gmail")
    seeded.ok("seed", "gmail", stdin=seeded.provider.new_grant())

    assert seeded.run("store", "rename", "gmail", "elsewhere/gmail").returncode == 2
    assert seeded.run("store", "rename", "missing", "other").returncode == 2
    assert seeded.run("store", "rename", "gmail", "gmail").returncode == 2
    keys = [row["key"] for row in json.loads(seeded.ok("store", "list", "--json"))]
    assert keys == ["default/gmail", "elsewhere/gmail"]


def test_a_grant_is_rebound_after_a_yes(seeded: Place) -> None:
    """A refresh token is not sent elsewhere until a human says that it belongs there."""
    seeded.ok("refresh", "gmail")
    seeded.token["provider"]["token_url"] = seeded.simulator.token_url.replace("127.0.0.1", "localhost")
    seeded.write()
    before = seeded.calls()
    refused = seeded.run("refresh", "gmail")
    assert (refused.returncode, seeded.calls()) == (1, before)

    asked = seeded.run("store", "rebind", "gmail", stdin="n\n")
    assert asked.returncode == 1
    assert "localhost" in asked.stdout
    assert seeded.run("refresh", "gmail").returncode == 1
    seeded.ok("store", "rebind", "gmail", "--yes")
    assert "generation 2" in seeded.ok("refresh", "gmail")
    assert "nothing to do" in seeded.ok("store", "rebind", "gmail")


def test_no_seed_for_a_grant_without_refresh_tokens(place: Place) -> None:
    """client_credentials needs no seed, and `seed` says so."""
    place.token["provider"] = {"token_url": place.simulator.token_url, "grant": "client_credentials"}
    place.write()

    assert place.run("seed", "gmail", stdin="sim-rt-0123456789abcdef").returncode == 2
    assert "generation 1" in place.ok("refresh", "gmail")


def test_once_publishes_and_exits(seeded: Place) -> None:
    """`run --once` ends as soon as every required output holds a valid token."""
    done = seeded.run("run", "--once", "--wait", "20s")

    assert done.returncode == 0, done.stderr
    assert seeded.provider.is_live(json.loads(seeded.output.read_text(encoding="utf-8"))["access_token"])


def test_once_says_when_a_human_must_act(place: Place) -> None:
    """`run --once` doesn't wait for what only a human can bring."""
    done = place.run("run", "--once", "--wait", "20s")

    assert done.returncode == 3
    assert "token-sidecar: gmail: " in done.stderr
    assert "Traceback" not in done.stderr


def test_once_gives_up_when_the_time_is_up(seeded: Place) -> None:
    """`run --once --wait` is exit code 4 while the provider is down."""
    seeded.simulator.stop()
    done = seeded.run("run", "--once", "--wait", "100ms")

    assert done.returncode == 4
    assert "token-sidecar: gmail: " in done.stderr


def test_run_tells_every_problem(place: Place) -> None:
    """`run` with a wrong configuration prints each problem on a line, and exits 2."""
    place.document["tokenz"] = place.document["servr"] = {}
    place.write()
    done = place.run("run")

    assert done.returncode == 2
    problems = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert [line.startswith(f"{place.config}:") for line in problems] == [True, True]
    assert place.run("run", "--wait", "1s").returncode == 2


def test_nothing_works_without_a_configuration(place: Place) -> None:
    """A configuration that isn't there is told with the way to get one."""
    done = place.run("status", "--config", str(Path("/nowhere/config.yaml")))

    assert done.returncode == 2
    assert "token-sidecar init" in done.stderr


def test_names_are_completed_from_the_configuration(place: Place) -> None:
    """The shell's completion knows commands and the configured tokens."""
    found = place.run(
        _TOKEN_SIDECAR_COMPLETE="bash_complete", COMP_WORDS="token-sidecar token g", COMP_CWORD="2"
    )
    assert found.stdout.split() == ["plain,gmail"]

    found = place.run(_TOKEN_SIDECAR_COMPLETE="bash_complete", COMP_WORDS="token-sidecar he", COMP_CWORD="1")
    assert found.stdout.split() == ["plain,healthcheck"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_clicks_own(shell: str, place: Place) -> None:
    """Each shell's script calls this program back."""
    assert "_TOKEN_SIDECAR_COMPLETE" in place.ok("completion", shell)


def test_providers_are_told_in_words_with_sources(place: Place) -> None:
    """A profile is shown as sentences, with where they come from; or as JSON."""
    told = place.ok("providers", "show", "google")
    assert "The refresh token stays the same." in told
    assert "source: " in told
    assert json.loads(place.ok("providers", "show", "google", "--json"))["rotation"] == "never"
    assert "google" in json.loads(place.ok("providers", "list", "--json"))
    assert place.ok("providers") == place.ok("providers", "list")
    assert "did you mean google?" in place.run("providers", "show", "gogle").stderr


def test_the_module_is_the_command(place: Place) -> None:
    """The console script is the same program."""
    script = Path(sys.executable).with_name("token-sidecar")
    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == place.ok("--version")
