from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.docs import kinds, pages

if TYPE_CHECKING:
    from tests.postgres import Server


def test_every_block_has_somebody_who_looks_at_it() -> None:
    """Each block names its language, and for each language there is a test: nothing is shown that nobody tried."""
    strange = [
        (block, block.language)
        for page in pages.PAGES
        for block in pages.blocks(page)
        if block.language not in {*kinds.CHECKERS, "sql"}
    ]

    assert not strange


@pytest.mark.parametrize("language", sorted(kinds.CHECKERS))
def test_every_block_is_right(language: str) -> None:
    """Whatever a page shows to be copied is valid: configurations, manifests, commands with their options, queries."""
    complaints = list(kinds.CHECKERS[language](pages.of(language)))

    assert not complaints


def test_every_statement_is_right(server: Server) -> None:
    """The database itself can parse what is to be fed to it."""
    complaints = list(kinds.as_sql(pages.of("sql"), server))

    assert not complaints


SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mailer"}}
WRONG = {
    "a profile that there isn't": ("yaml", "tokens: {gmail: {provider: googel, outputs: [{file: /run/x}]}}"),
    "a key of a part": ("yaml", "after_refresh: [{htp: {url: http://127.0.0.1/}}]"),
    "a value of the chart": ("yaml", "token-sidecar: {podMonitor: {enable: true}}"),
    "a chart's configuration": ("yaml", "token-sidecar: {config: {tokens: {gmail: {seed: /etc/seed}}}}"),
    "a field of a manifest": ("yaml", json.dumps({**SERVICE, "spec": {"ports": [{"prot": 80}]}})),
    "a configuration in a ConfigMap": (
        "yaml",
        json.dumps({**SERVICE, "kind": "ConfigMap", "data": {"config.yaml": "tokens: {gmail: {sead: x}}"}}),
    ),
    "a part of a pod": ("yaml", "livenessProbe: {exec: {comand: [true]}}"),
    "nothing that is known": ("yaml", "tokns: {}"),
    "a key of Prometheus": ("yaml", "scrape_configs: [{job_nam: x}]"),
    "an alert that there isn't": ("yaml", "route: {matchers: ['alertname=\"TokenSidecarDwn\"']}"),
    "one of several alerts": (
        "yaml",
        "inhibit_rules: [{target_matchers: ['alertname=~\"TokenSidecar(Down|Dwn)\"']}]",
    ),
    "a label that alerts lack": ("yaml", "inhibit_rules: [{equal: [tokn]}]"),
    "a receiver that there isn't": ("yaml", "{route: {receiver: me}, receivers: [{name: you}]}"),
    "no YAML": ("yaml", "a: [b"),
    "a template that the chart lacks": ("yaml", '{{- include "token-sidecar.volume" . }}'),
    "a command": ("console", "$ token-sidecar statsu"),
    "an option": ("console", "$ token-sidecar status --jsn"),
    "an argument that is missing": ("console", "$ token-sidecar refresh"),
    "a command in a pod": ("console", "$ kubectl exec POD -c token-sidecar -- token-sidecar docter"),
    "a command over SSH": ("console", "$ ssh host token-sidecar consle"),
    "a command behind a pipe": ("console", "$ cat seed | token-sidecar sed gmail"),
    "another program's subcommand": ("console", "$ kubectl aply -f file.yaml"),
    "another program's option": ("console", "$ curl --sillent http://127.0.0.1:9640/status"),
    "a target": ("console", "$ make tset"),
    "output alone": ("console", "token-sidecar status"),
    "the shell's syntax": ("sh", "if true; then\necho yes\n"),
    "a command in a command": ("sh", 'echo "$(token-sidecar tokn gmail)"'),
    "a continued line": ("sh", "token-sidecar status \\\n  --jsn"),
    "a command in a condition": ("sh", "until token-sidecar helthcheck; do sleep 1; done"),
    "a file that is written": ("sh", "cat > config.yaml <<'END'\ntokens: {gmail: {sead: x}}\nEND"),
    "an option of the simulator": ("sh", "python -m sidecar.testing --rotate > log &"),
    "a strange program": ("sh", "frobnicate --all"),
    "JSON": ("json", "{'a': 1}"),
    "Python": ("python", "def f(:\n"),
    "a name that we don't have": ("python", "from sidecar.testing import Simulater"),
    "a key of a unit": ("ini", "[Service]\nProtectHom=yes\n"),
    "PromQL": ("promql", "rate(token_sidecar_refreshes_total[5m]"),
    "JavaScript": ("javascript", "polkit.addRule(function( {"),
    "an instruction": ("dockerfile", "FORM token-sidecar:0.1.0"),
    "a command that nobody would look at": ("text", "$ token-sidecar status"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_mistakes_are_found(wrong: str) -> None:
    """Each kind of mistake that a page may have is noticed."""
    language, text = WRONG[wrong]

    assert list(kinds.CHECKERS[language]([pages.Block(pages.ROOT / "README.md", 1, language, f"{text}\n")]))


def test_a_wrong_statement_is_found(server: Server) -> None:
    """A mistake in SQL is noticed, too."""
    wrong = pages.Block(pages.ROOT / "README.md", 1, "sql", "GRANT SELECT ON records FROM token_sidecar;")

    assert list(kinds.as_sql([wrong], server))
