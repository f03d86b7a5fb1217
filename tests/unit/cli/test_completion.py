"""The completion scripts, in real shells where there are any, and the candidates they ask for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pilot_agent.cli.candidates import candidates
from tests.support.cli import PROGRAM, run_agent


def words_for(*typed: str) -> list[str]:
    return [word for word, _ in candidates(typed)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (
            [],
            [
                "bug-report",
                "completion",
                "help",
                "istio-iptables",
                "proxy",
                "request",
                "restart",
                "upgrade",
                "version",
                "wait",
            ],
        ),
        (["req"], ["request"]),
        (["re"], ["request", "restart"]),
        (["--log_as_json", "v"], ["version"]),
        (["--log_target", "x", "v"], ["version"]),
        (["help", "w"], ["wait"]),
        (["help", "wait", ""], []),
        (["completion", ""], ["bash", "fish", "powershell", "zsh"]),
        (["proxy", ""], ["sidecar", "router", "waypoint", "ztunnel", "agentgateway"]),
        (["proxy", "--domain", "d", "r"], ["router"]),
        (["proxy", "router", ""], []),
        (["proxy", "--pro"], ["--profiling", "--proxyComponentLogLevel", "--proxyLogLevel"]),
        (["version", "-"], ["--short", "--output", "--help"]),
        (["version", "-o", ""], ["yaml", "json"]),
        (["version", "--output", "j"], ["json"]),
        (["version", "--output=j"], ["--output=json"]),
        (["request", "--debug-port", "1502"], ["15020", "15021"]),
        (["proxy", "--domain", ""], []),
        (["completion", "bash", "--no"], ["--no-descriptions"]),
        (["bogus", ""], []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_candidates(typed: list[str], expected: list[str]) -> None:
    assert words_for(*typed)[: len(expected) or None] == expected


def test_a_candidate_has_its_help_behind_a_tab() -> None:
    ended = run_agent("__complete", "--log_as_json", "versi")
    assert (ended.returncode, ended.stdout) == (0, "version\tPrint which build this is\n")


@pytest.mark.parametrize("shell", ["bash", "fish", "powershell", "zsh"])
def test_each_shell_has_two_scripts(shell: str) -> None:
    long, short = run_agent("completion", shell), run_agent("completion", shell, "--no-descriptions")
    assert (long.returncode, short.returncode) == (0, 0)
    assert "__complete" in long.stdout
    assert "__complete" in short.stdout
    assert long.stdout != short.stdout
    assert "@" not in long.stdout.replace("@before", "").replace("@($", "").replace("(@Q)", "").replace(
        "[@]", ""
    )


@pytest.mark.parametrize(
    "words", [[], ["tcsh"], ["--no-descriptions=false", "tcsh"]], ids=["none", "other", "flag"]
)
def test_without_a_known_shell_the_help_is_printed(words: list[str]) -> None:
    ended = run_agent("completion", *words[-1:])
    assert ended.returncode == 0
    assert "\n  pilot-agent completion [command]\n" in ended.stdout


def installed(tmp_path: Path) -> Path:
    """Return a directory for PATH in which `pilot-agent` is this checkout's."""
    folder = tmp_path / "path"
    folder.mkdir()
    program = folder / "pilot-agent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize("descriptions", ["true", "false"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pilot-agent versi", ["version"]),
        ("pilot-agent version --output=j", ["json"]),
        ("pilot-agent version -o ", ["yaml", "json"]),
        ("pilot-agent completion ", ["bash", "fish", "powershell", "zsh"]),
        ("pilot-agent proxy --domain ", []),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, expected: list[str], descriptions: str) -> None:
    script = run_agent("completion", "bash", f"--no-descriptions={descriptions}").stdout
    test = f'{script}\nCOMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; _pilot_agent\n'
    ended = subprocess.run(
        ["bash", "-c", f'PATH="{installed(tmp_path)}:$PATH"\n{test}printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.split() == expected


def test_bash_lists_descriptions_when_asked_to_list(tmp_path: Path) -> None:
    script = run_agent("completion", "bash").stdout
    test = f'{script}\nCOMP_TYPE=63; COMP_LINE="pilot-agent "; COMP_POINT=12; _pilot_agent\n'
    ended = subprocess.run(
        ["bash", "-c", f'PATH="{installed(tmp_path)}:$PATH"\n{test}printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "version  (Print which build this is)" in ended.stdout.splitlines()


@pytest.mark.parametrize("shell", ["fish", "zsh"])
@pytest.mark.parametrize("flag", ["--no-descriptions=false", "--no-descriptions"])
def test_other_shells_find_no_fault_in_their_script(shell: str, flag: str) -> None:
    """A shell that is not installed is stood in for by the check that quotes and blocks are balanced."""
    script = run_agent("completion", shell, flag).stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, timeout=30, check=True)
    assert script.count("'") % 2 == script.count('"') % 2 == 0
    assert script.count("(") == script.count(")")
    assert script.count("{") == script.count("}")
