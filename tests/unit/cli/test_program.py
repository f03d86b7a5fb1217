"""The program as a user meets it: real processes, their output and their exit status."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pilot_agent.cli.commands.version import _yaml
from pilot_agent.log import SCOPES
from pilot_agent.version import BuildInfo
from tests.support.cli import PROGRAM, run_agent

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def assert_told(ended: subprocess.CompletedProcess[str], text: str, hint: str = "") -> None:
    """The error stands on stderr and, as a log line, on stdout; nothing else does."""
    assert ended.returncode == 255
    assert ended.stderr == f"Error: {text}\n{hint}"
    assert re.fullmatch(rf"{TIMESTAMP}\terror\t{re.escape(text)}\n", ended.stdout)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["--version"], ["--foo", "version"], ["help"]])
def test_without_a_command_the_help_is_printed(words: list[str]) -> None:
    ended = run_agent(*words)
    assert ended.returncode == 0
    assert ended.stderr == ""
    for name in ("completion", "help", "proxy", "request", "restart", "upgrade", "version", "wait"):
        assert f"\n  {name} " in ended.stdout
    assert "collateral" not in ended.stdout
    assert "__complete" not in ended.stdout


@pytest.mark.parametrize(
    "command", ["proxy", "request", "wait", "version", "completion", "collateral", "help"]
)
def test_every_command_has_help_that_names_its_flags(command: str) -> None:
    by_flag, by_command = run_agent(command, "--help"), run_agent("help", command)
    assert by_flag.returncode == by_command.returncode == 0
    assert by_flag.stdout == by_command.stdout
    assert f"\n  pilot-agent {command}" in by_flag.stdout
    assert "  -h, --help" in by_flag.stdout
    assert all(scope in by_flag.stdout for scope in (*SCOPES, "all"))


def test_help_on_an_unknown_topic_is_a_message_and_no_failure() -> None:
    ended = run_agent("help", "a", "b")
    assert ended.returncode == 0
    assert ended.stderr.startswith("Unknown help topic [`a` `b`]\nUsage:\n  pilot-agent [command]\n")


def test_an_unknown_command_points_to_the_help() -> None:
    assert_told(
        run_agent("istio-ambient"),
        'unknown command "istio-ambient" for "pilot-agent"',
        "Run 'pilot-agent --help' for usage.\n",
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["version", "--foo"], "unknown flag: --foo"),
        (["version", "--help", "--bad"], "unknown flag: --bad"),
        (["version", "-o", "xml"], "--output must be 'yaml' or 'json'"),
        (["request", "GET"], "requires at least 2 arg(s), only received 1"),
        (
            ["request", "--debug-port", "9999", "GET", "x"],
            "debug port 9999 is not in allowed list [15000 15004 15020 15021]",
        ),
        (["request", "BAD METHOD", "x"], 'net/http: invalid method "BAD METHOD"'),
        (["request", "GET", "%zz"], 'parse "http://localhost:15000/%zz": invalid URL escape "%zz"'),
        (["wait", "--bogus"], "unknown flag: --bogus"),
        (["collateral"], "this build is not compiled with collateral support"),
        (["completion", "bash", "x"], 'unknown command "x" for "pilot-agent completion bash"'),
        (["proxy", "--log_output_level", "a:b:c"], "invalid output level format 'a:b:c'"),
        (["proxy", "--log_stacktrace_level=loud"], "invalid output level 'loud'"),
        (
            ["proxy", "--log_target", "/nowhere/log"],
            'couldn\'t open log target "/nowhere/log": No such file or directory',
        ),
        (["proxy", "--domain"], "flag needs an argument: --domain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_twice_and_ends_with_255(words: list[str], text: str) -> None:
    assert_told(run_agent(*words), text)


def test_version_in_its_four_forms() -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    assert run_agent("version", "-s").stdout == "client version: unknown\n"
    assert run_agent("version").stdout == (
        'client version: version.BuildInfo{Version:"unknown", GitRevision:"unknown", '
        f'GolangVersion:"python{python}", BuildStatus:"unknown", GitTag:"unknown"}}\n'
    )
    as_json = run_agent("version", "-s", "-ojson").stdout
    assert list(json.loads(as_json)["clientVersion"]) == [
        "version",
        "revision",
        "golang_version",
        "status",
        "tag",
    ]
    assert as_json.startswith('{\n  "clientVersion": {\n    "version": "unknown",\n')
    assert as_json.endswith("}\n")
    as_yaml = run_agent("version", "--output", "yaml").stdout
    assert as_yaml.startswith("clientVersion:\n  golang_version: ")
    assert as_yaml.endswith("  version: unknown\n\n")
    assert yaml.safe_load(as_yaml) == json.loads(as_json)


@pytest.mark.parametrize(
    "version", ["1.30", "1.30.1", "v1.30", "5", "true", "1e3", "a: b", "", "1.2.3-alpha.0"]
)
def test_a_version_stays_a_text_in_yaml(version: str) -> None:
    assert yaml.safe_load(_yaml(BuildInfo(version=version)))["clientVersion"]["version"] == version


def test_the_small_commands_import_nothing_heavy() -> None:
    heavy = (
        "grpc pykka google yaml psutil msgspec dataclasses http ssl pilot_agent.log pilot_agent.environment"
    )
    code = (
        "import sys; from pilot_agent.cli import main; status = main(['version']); "
        f"loaded = set('{heavy}'.split()) & set(sys.modules); sys.exit(str(loaded) if loaded else status)"
    )
    root = PROGRAM.parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_it_runs_from_anywhere_through_a_link_whatever_the_python_variables_say(tmp_path: Path) -> None:
    link = tmp_path / "agent"
    link.symlink_to(PROGRAM)
    (tmp_path / "json.py").write_text("raise SystemExit('a foreign module was imported')")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": "/nonexistent"}
    ended = subprocess.run(
        [sys.executable, str(link), "version", "-o", "json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["clientVersion"]["version"] == "unknown"


def test_a_reader_that_goes_away_is_no_error_worth_words() -> None:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), "help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 141
    assert stderr == b""


@pytest.mark.parametrize("words", [["version"], ["help"], ["completion", "zsh"]])
def test_a_full_disk_is_told(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, str(PROGRAM), *words],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert ended.returncode == 255
    assert b"Error: write stdout: No space left on device\n" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("words", ["version", "bogus", "wait --timeoutSeconds=0"])
def test_closed_standard_descriptors_do_no_harm(words: str) -> None:
    script = f"{sys.executable} {PROGRAM} {words} <&- >&- 2>&-"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (0 if words == "version" else 255, b"")


def test_the_installed_program_takes_the_words_of_its_process() -> None:
    code = "import sys; from pilot_agent.cli import main; sys.argv[1:] = ['version', '-s']; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROGRAM.parents[1],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "client version: unknown\n", "")


def test_a_small_command_runs_without_home_name_or_writable_disk(tmp_path: Path) -> None:
    """As the container has it: no HOME, a working directory without rights, closed standard input."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    ended = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), "version", "-s"],
        cwd=folder,
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "client version: unknown\n", "")


def test_ctrl_c_ends_it_as_it_ends_any_program() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests behind a shell's & ignore it
    try:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert b"Waiting for Envoy proxy to be ready (timeout: 60 seconds)..." in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert stderr == b""


@pytest.mark.parametrize("name", ["/usr/bin/python3.9", "/usr/bin/python3.10", "/usr/bin/python2"])
def test_an_older_python_is_answered_in_one_line(name: str, tmp_path: Path) -> None:
    """Where such an interpreter is missing, the check is made by one that lies about its version."""
    copy = tmp_path / "bin" / "pilot-agent"
    copy.parent.mkdir()
    shutil.copy(PROGRAM, copy)
    older = [name, str(copy)]
    lying = (
        "import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    command = older if os.access(name, os.X_OK) else [sys.executable, "-c", lying, str(copy)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 255
    assert re.fullmatch(r"Error: pilot-agent needs Python 3\.11 or newer, this is \d\.\d+\n", ended.stderr)
    assert ended.stdout == ""


def test_an_upgrade_where_no_agent_runs_is_told(tmp_path: Path) -> None:
    missing = run_agent("upgrade", cwd=tmp_path)
    assert missing.returncode == 255
    assert missing.stderr == "Error: etc/istio/proxy: No such file or directory\n"
    (tmp_path / "etc/istio/proxy").mkdir(parents=True)
    nobody = run_agent("upgrade", cwd=tmp_path)
    assert nobody.stderr == "Error: no pilot-agent runs with etc/istio/proxy\n"
    assert list((tmp_path / "etc/istio/proxy").iterdir()) == []
