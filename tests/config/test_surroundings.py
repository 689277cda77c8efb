from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidecar.config import mounts

if TYPE_CHECKING:
    from tests.config.conftest import Place

TEXT = """\
tokens:
  a:
    provider: google
    client: {file: c.json}
    seed: seed.json
    outputs: [{file: out/t}]
"""


@pytest.fixture(autouse=True)
def memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the directory look like one in memory that is not lost, and the client's file be there."""
    mount(place, monkeypatch, f"{place.directory} tmpfs", f"{place.directory}/state ext4")
    place.write("c.json", "{}")
    place.write("seed.json", "{}")


def mount(place: Place, monkeypatch: pytest.MonkeyPatch, *entries: str) -> None:
    """Replace the table of mounts: `mount-point type`."""
    lines = [f"1 1 0:1 / {entry.split()[0]} rw - {entry.split()[1]} x rw" for entry in ("/ ext4", *entries)]
    monkeypatch.setattr(mounts, "MOUNTINFO", place.write("mountinfo", "\n".join(lines), 0o644))


def test_nothing_is_said_of_what_is_right(place: Place) -> None:
    """A sound configuration has neither problems nor warnings."""
    assert place.warnings(TEXT, disk=True) == []


def test_a_subject_token_may_come_later(place: Place) -> None:
    """Kubelet may write it after we start: worth a warning, no more."""
    text = TEXT.replace("    seed: seed.json\n", "    grant: token_exchange\n    subject_token: subject\n")
    there = "config.yaml:6:20: tokens.a.subject_token: subject is"
    assert place.warnings(text, disk=True) == [f"{there} not there yet; the token can't be got until it is"]
    place.write("subject")
    assert place.warnings(text, disk=True) == [
        f"{there} empty; the token can't be got until it holds the token to trade in"
    ]
    place.write("subject", "sim-at-0123456789abcdef", 0o644)
    assert "has mode 0644" in place.warnings(text, disk=True)[0]
    place.write("subject", "sim-at-0123456789abcdef")
    assert place.warnings(text, disk=True) == []


def test_a_seed_may_be_missing_or_empty(place: Place) -> None:
    """The token is unseeded until the seed comes, and that is worth a warning."""
    (place.directory / "seed.json").unlink()
    assert place.warnings(TEXT, disk=True) == [
        "config.yaml:5:11: tokens.a.seed: seed.json is not there yet; the token is unseeded until it is"
    ]
    place.write("seed.json")
    assert place.warnings(TEXT, disk=True) == [
        (
            "config.yaml:5:11: tokens.a.seed: seed.json is empty; "
            "the token is unseeded until it holds a refresh token"
        )
    ]


@pytest.mark.parametrize(
    ("seed", "problem"),
    [
        ("no/seed.json", "the directory no does not exist; create it, or correct the path"),
        ("out", "out is a directory; name a regular file"),
        ("pipe", "pipe is a device, pipe or socket; name a regular file"),
        ("c.json/x", "c.json/x can't be reached: Not a directory; user"),
        ("big", "big is larger than 1024 KiB; is it the right file?"),
        ("sim-rt-0123456789abcdef", "looks like a secret; put it into a file, and name that file here"),
        (
            "{file: 'sim-rt-0123456789/abcdef'}",
            "looks like a secret; put it into a file, and name that file here",
        ),
    ],
)
def test_a_seed_that_can_never_be_read_is_an_error(place: Place, seed: str, problem: str) -> None:
    """What is given but is no file that could be read has to be corrected."""
    os.mkfifo(place.directory / "pipe")
    place.write("big", "x" * (1024 * 1024 + 1))
    problems = place.problems(TEXT.replace("seed.json", seed), disk=True)
    assert len(problems) == 1
    assert problems[0].split("tokens.a.seed: ")[1].startswith(problem)


def test_a_seed_that_this_user_cannot_read_is_an_error(place: Place) -> None:
    """The permission that counts is that of the daemon's user."""
    place.write("c.json", "{}", 0o444)
    place.write("seed.json", "{}", 0o000)
    problems = place.as_nobody(TEXT)
    assert len(problems) == 1
    assert "tokens.a.seed: seed.json can't be read by user" in problems[0]


def test_a_seed_in_a_closed_directory_is_an_error(place: Place) -> None:
    """A directory that can't be entered is told from a file that is missing."""
    place.write("c.json", "{}", 0o444)
    place.write("closed/seed.json", "{}")
    (place.directory / "closed").chmod(0o000)
    problems = place.as_nobody(TEXT.replace("seed.json", "closed/seed.json"))
    (place.directory / "closed").chmod(0o700)
    assert len(problems) == 1
    assert "closed/seed.json can't be reached: Permission denied" in problems[0]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644])
def test_a_secret_that_others_can_read_is_a_warning(place: Place, mode: int) -> None:
    """The seed and the client's file hold secrets."""
    path = place.write("seed.json", "{}", mode)
    assert place.load(TEXT, disk=True).warnings == (
        (
            f"{place.file}:5:11: tokens.a.seed: {path} has mode {mode:04o}, so that others can read the "
            f"secret; chmod 600 {path}"
        ),
    )
    place.write("seed.json", "{}")
    place.write("c.json", "{}", mode)
    assert "c.json has mode" in place.warnings(TEXT, disk=True)[0]


def test_a_mounted_secret_has_the_mode_that_the_kubelet_gave_it(place: Place) -> None:
    """Nobody can change a mode in a Secret's volume, so there is no warning."""
    place.write("secret/..1/seed.json", "{}", 0o644)
    (place.directory / "secret/..data").symlink_to("..1")
    (place.directory / "secret/seed.json").symlink_to("..data/seed.json")
    assert place.warnings(TEXT.replace("seed.json", "secret/seed.json"), disk=True) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that is somebody else's")
def test_a_secret_may_be_shared_with_us_by_its_group(place: Place) -> None:
    """Mode 0640 on somebody else's file is how secrets are handed to a service."""
    for name in ("c.json", "seed.json"):
        os.chown(place.write(name, "{}", 0o640), 0, 65534)
    assert place.as_nobody(TEXT) == []


def test_keys_and_secrets_of_a_client_are_secrets(place: Place) -> None:
    """A certificate is one only where its key is in the same file."""
    place.write("seed.json", "{}")
    for name in ("s", "t", "k"):
        place.write(name, "x", 0o644)
    place.write("c", "x", 0o644)

    def told(client: str) -> list[str]:
        """Return the files that the warnings are about."""
        lines = place.warnings(TEXT.replace("{file: c.json}", client), disk=True)
        return [line.partition(" has mode")[0].rpartition(" ")[2] for line in lines]

    certified = "certificate_file: c, auth_method: tls_client_auth}"
    assert told("{id: x, secret_files: [s, t]}") == ["s", "t"]
    assert told("{id: x, private_key_file: k, " + certified) == ["k"]
    assert told("{id: x, " + certified) == ["c"]


@pytest.mark.parametrize("key", ["file", "id_file"])
def test_a_client_file_must_be_there(place: Place, key: str) -> None:
    """Without its client the daemon can do nothing, so a missing file is an error, other than for seeds."""
    text = TEXT.replace("{file: c.json}", f"{{{key}: no.json, auth_method: none}}")
    assert place.problems(text, disk=True) == [
        (
            f"config.yaml:4:{16 + len(key)}: tokens.a.client.{key}: no.json does not exist; "
            "create it, or correct the path"
        )
    ]
    place.write("no.json")
    assert place.problems(text, disk=True)[0].endswith("no.json is empty; write the client's data into it")


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("no/such/t", "the directory no/such does not exist; make it: mkdir -p no/such"),
        ("c.json/t", "c.json is a regular file, not a directory"),
        ("c.json/x/t", "the directory c.json/x can't be reached: Not a directory"),
        ("out", "out is a directory; name the file in it"),
    ],
)
def test_an_output_needs_a_directory(place: Place, file: str, problem: str) -> None:
    """The directory is named, and how to make it."""
    assert place.problems(TEXT.replace("out/t", file), disk=True) == [
        f"config.yaml:6:22: tokens.a.outputs[0].file: {problem}"
    ]


def test_an_output_needs_a_directory_that_this_user_can_write(place: Place) -> None:
    """The permission that counts is that of the daemon's user."""
    place.write("c.json", "{}", 0o444)
    place.write("seed.json", "{}", 0o444)
    (place.directory / "out").chmod(0o555)
    problems = place.as_nobody(TEXT)
    assert len(problems) == 1
    assert "tokens.a.outputs[0].file: the directory out can't be written by user" in problems[0]


def test_an_output_on_a_read_only_file_system_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted Secret can't be written, whoever asks."""
    real = os.statvfs

    def read_only(path: str) -> os.statvfs_result:
        values = list(real(path))
        if str(path).endswith("/out"):
            values[8] |= os.ST_RDONLY
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", read_only)
    assert place.problems(TEXT, disk=True) == [
        (
            "config.yaml:6:22: tokens.a.outputs[0].file: the directory out is on a read-only file system; "
            "mount one there that can be written"
        )
    ]


def test_an_output_that_is_mounted_by_itself_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subPath can't be replaced by a rename."""
    output = place.write("out/t", "x")
    mount(place, monkeypatch, f"{output} tmpfs")
    problems = place.problems(TEXT, disk=True)
    assert problems == [
        (
            "config.yaml:6:22: tokens.a.outputs[0].file: out/t is mounted as a single file (subPath?), "
            "which can't be replaced atomically; mount its directory"
        )
    ]


def test_an_output_on_a_disk_is_a_warning_or_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens belong in memory; `require_tmpfs` insists."""
    mount(place, monkeypatch, f"{place.directory}/out xfs")
    assert place.warnings(TEXT, disk=True) == [
        f"config.yaml:6:22: tokens.a.outputs[0].file: {place.directory}/out is on xfs, "
        "so that tokens reach a disk; mount a tmpfs there".replace(f"{place.directory}/", "")
    ]
    text = TEXT.replace("out/t", "out/t, require_tmpfs: true")
    assert place.problems(text, disk=True)[0].endswith("mount a tmpfs there, or drop `require_tmpfs`")


def test_a_directory_that_everybody_can_write_is_a_warning(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There anybody may replace the token; a volume of the pod's own is open by its nature."""
    (place.directory / "out").chmod(0o777)
    [warning] = place.warnings(TEXT, disk=True)
    assert warning.endswith("out can be written by everybody, who may replace the token; chmod o-w out")

    monkeypatch.setattr(mounts.Mounts, "is_mount_point", lambda _, path: path.name == "out")
    assert place.warnings(TEXT, disk=True) == []


def test_users_and_groups_must_exist(place: Place) -> None:
    """A name is looked up on this system; a number needs no lookup."""
    text = TEXT.replace("out/t", "out/t, owner: no-such-user, group: no-such-group")
    problems = place.problems(f"{text}control: {{group: no-such-group}}", disk=True)
    assert [line.partition(";")[0] for line in problems] == [
        "config.yaml:6:36: tokens.a.outputs[0].owner: there is no such owner on this system",
        "config.yaml:6:57: tokens.a.outputs[0].group: there is no such group on this system",
        "config.yaml:7:18: control.group: there is no such group on this system",
    ]
    assert place.warnings(TEXT.replace("out/t", "out/t, owner: root, group: 12345"), disk=True) == []


def test_the_state_directory_must_be_possible(place: Place) -> None:
    """It is made when it is missing, so its nearest ancestor must be a directory."""
    text = f"{TEXT}store: sqlite:state/s.db\nstate_dir: "
    assert place.warnings(f"{text}state/a/b", disk=True) == []
    assert place.problems(f"{text}c.json/a", disk=True) == [
        (
            "config.yaml:8:12: state_dir: c.json/a can't be made: c.json is a regular file, not a directory; "
            "set `state_dir` to another"
        )
    ]


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ("sqlite:no/s.db", "the directory no does not exist; make it: mkdir -p no"),
        ("sqlite:out", "out is a directory; name the database file in it"),
    ],
)
def test_the_store_must_be_possible(place: Place, store: str, problem: str) -> None:
    """A database needs a directory, and is a file."""
    assert place.problems(f"{TEXT}store: {store}", disk=True) == [f"config.yaml:7:8: store: {problem}"]


def test_a_store_that_this_user_cannot_write_is_an_error(place: Place) -> None:
    """A database that somebody else made has to be handed over."""
    place.write("c.json", "{}", 0o444)
    place.write("seed.json", "{}", 0o444)
    place.write("out/s.db", "", 0o400)
    if os.geteuid() == 0:
        assert (
            "out/s.db can't be read and written by user 65534"
            in place.as_nobody(f"{TEXT}store: sqlite:out/s.db")[0]
        )
    else:
        assert (
            "out/s.db can't be read and written"
            in place.problems(f"{TEXT}store: sqlite:out/s.db", disk=True)[0]
        )


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_rotating_tokens_need_a_store_that_lasts(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A database in memory or in the container's own layer goes with the pod."""
    mount(place, monkeypatch, f"{place.directory} {kind}", f"{place.directory}/out tmpfs")
    text = TEXT.replace("google", "{token_url: 'https://sso.example/t'}")
    problems = place.problems(text, disk=True)
    assert len(problems) == 1
    assert f"store: is on {kind} (state/store.db), and lost with the pod" in problems[0]
    assert place.warnings(f"{text}allow_volatile_store: true", disk=True) == []


def test_a_consent_alone_needs_a_store_that_lasts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refresh tokens that stay come back from a seed, and those that only a human gave don't: that is a warning."""
    mount(place, monkeypatch, f"{place.directory} tmpfs", f"{place.directory}/out tmpfs")
    bare = TEXT.replace("    seed: seed.json\n", "")
    assert bare != TEXT
    [warning] = place.warnings(bare, disk=True)
    assert "lost with it are the consents for a, for which no `seed` is configured; write `store: " in warning
    assert place.warnings(f"{bare}allow_volatile_store: true", disk=True) == []


def test_a_store_that_cant_be_read_is_not_called_volatile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file with its URL is missing, only that is said: the default in its place was never asked for."""
    mount(place, monkeypatch, f"{place.directory} tmpfs")
    text = TEXT.replace("google", "{token_url: 'https://sso.example/t'}")
    [problem] = place.problems(f"namespace: app\nstore: {{url_file: nowhere}}\n{text}", disk=True)
    assert "store.url_file: nowhere can't be read: No such file or directory" in problem


def test_the_store_may_be_named_in_a_file(place: Place) -> None:
    """A URL can be a secret, so it can come from a file."""
    place.write("url", "sqlite:s.db\n")
    text = f"{TEXT}store: {{url_file: url}}"
    assert place.load(text, disk=True).settings.store.sqlite_path == place.directory / "s.db"
    place.write("url")
    assert place.problems(text, disk=True) == [
        "config.yaml:7:19: store.url_file: url is empty; write the store's URL into it"
    ]
    (place.directory / "url").unlink()
    assert "url can't be read: No such file or directory" in place.problems(text, disk=True)[0]


def test_a_system_without_a_mount_table_has_no_opinion(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is known of mounts, nothing is held against a directory."""
    monkeypatch.setattr(mounts, "MOUNTINFO", place.directory / "no-such-file")
    assert place.warnings(TEXT, disk=True) == []


def test_mount_points_are_unescaped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table writes spaces in octal."""
    mount(place, monkeypatch, rf"{place.directory}/a\040b xfs")
    assert mounts.Mounts.read().kind(place.directory / "a b" / "c") == "xfs"
