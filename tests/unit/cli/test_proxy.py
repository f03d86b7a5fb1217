"""`proxy` up to the point where the tree starts: what is said, in which order, and what ends it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import PROGRAM, run_agent
from tests.support.waiting import wait_for

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "POD_NAME": "pod",
    "POD_NAMESPACE": "ns",
    "INSTANCE_IP": "10.1.2.3",
    "PROXY_CONFIG": '{"concurrency":1}\n',
}
NO_ROOT = "root CA file for CA does not exist var/run/secrets/istio/root-cert.pem"


def run_proxy(cwd: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_agent("proxy", *words, cwd=cwd, environment=ENVIRONMENT | variables)


def messages(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return level and message of each line, without its time."""
    return [line.partition("\t")[2] if "Z\t" in line else line for line in ended.stdout.splitlines()]


def test_the_flags_and_the_version_are_told_first_and_in_order(tmp_path: Path) -> None:
    ended = run_proxy(tmp_path, "bogus", "--stsPort=0x1f", "--log_target", "stdout", "--domain", 'a"b\tc')
    assert messages(ended) == [
        'info\tFLAG: --concurrency="0"',
        'info\tFLAG: --domain="a\\"b\\tc"',
        'info\tFLAG: --help="false"',
        'info\tFLAG: --log_as_json="false"',
        'info\tFLAG: --log_caller=""',
        'info\tFLAG: --log_output_level=""',
        'info\tFLAG: --log_stacktrace_level="default:none"',
        'info\tFLAG: --log_target="[stdout]"',
        'info\tFLAG: --meshConfig="./etc/istio/config/mesh"',
        'info\tFLAG: --outlierLogPath=""',
        'info\tFLAG: --profiling="true"',
        'info\tFLAG: --proxyComponentLogLevel=""',
        'info\tFLAG: --proxyLogLevel="warning"',
        'info\tFLAG: --serviceCluster="istio-proxy"',
        'info\tFLAG: --stsPort="31"',
        'info\tFLAG: --templateFile=""',
        'info\tFLAG: --tokenManagerPlugin=""',
        'info\tFLAG: --vklog="0"',
        "info\tVersion unknown-unknown-unknown",
        "error\tinvalid proxy Type: bogus",
    ]
    assert (ended.returncode, ended.stderr) == (255, "Error: invalid proxy Type: bogus\n")


@pytest.mark.parametrize(
    ("words", "role"),
    [
        ((), "sidecar"),
        (("router",), "router"),
        (("waypoint", "more", "words"), "waypoint"),
        (("ztunnel",), "ztunnel"),
        (("agentgateway",), "agentgateway"),
        (("--gone", "router"), "sidecar"),
        (("--trust-domain=x", "--controlPlaneBootstrap", "-q", "router"), "sidecar"),
        (("router", "--parentShutdownDuration", "45s", "--id", "x"), "router"),
    ],
)
def test_roles_and_flags_of_old_releases_are_taken(tmp_path: Path, words: tuple[str, ...], role: str) -> None:
    lines = messages(run_proxy(tmp_path, *words))
    told = next(line for line in lines if line.startswith("info\tProxy role\t"))
    assert re.fullmatch(
        rf".*ips=\[10\.1\.2\.3[^]]*\] type={role} id=pod\.ns domain=ns\.svc\.cluster\.local", told
    )


def test_the_configuration_is_told_before_what_is_wrong_with_it_ends_the_agent(tmp_path: Path) -> None:
    ended = run_proxy(tmp_path, "--domain", "d")
    lines = messages(ended)
    order = [
        "info\tVersion unknown-unknown-unknown",
        'info\tApply proxy config from env {"concurrency":1}',
        "info\tEffective config: binaryPath: /usr/local/bin/envoy",
        f"error\t{NO_ROOT}",
    ]
    assert [line for line in lines if line in order] == order
    assert (ended.returncode, ended.stderr) == (255, f"Error: {NO_ROOT}\n")


@pytest.mark.parametrize("text", ["{", "concurrency: {}", "[]", "statusPort: 0", '"\\xff"'])
def test_a_malformed_configuration_ends_with_one_error(tmp_path: Path, text: str) -> None:
    ended = run_proxy(tmp_path, PROXY_CONFIG=text)
    assert ended.returncode == 255
    assert ended.stderr.startswith("Error: failed to get proxy config: ")
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_wrong_variable_is_told_once_though_several_parts_read_it(tmp_path: Path) -> None:
    ended = run_proxy(tmp_path, ISTIO_CPU_LIMIT="many")
    assert ended.stdout.count("Invalid environment variable value `many` for ISTIO_CPU_LIMIT") == 1


def test_the_error_is_a_json_line_when_the_log_is_json(tmp_path: Path) -> None:
    ended = run_proxy(
        tmp_path, "bogus", "--log_as_json", "--log_caller=default", "--log_stacktrace_level=error"
    )
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (last["level"], last["msg"]) == ("error", "invalid proxy Type: bogus")
    assert re.fullmatch(r"cli/\w+\.py:\d+", last["caller"])
    assert "\n" in last["stack"]


def test_lines_go_to_a_file_and_the_error_to_stderr_too(tmp_path: Path) -> None:
    ended = run_proxy(tmp_path, "bogus", "--log_target=log", "--log_output_level=error")
    assert (ended.stdout, ended.stderr) == ("", "Error: invalid proxy Type: bogus\n")
    assert re.fullmatch(r"\S+Z\terror\tinvalid proxy Type: bogus\n", (tmp_path / "log").read_text())


def test_nothing_heavy_is_imported_before_the_configuration_is_found_good(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop()); from pilot_agent.cli import main; main(['proxy']); "
        "heavy = [n for n in sys.modules if n.endswith('_pb2') or n in "
        "('grpc', 'cryptography', 'google.protobuf', 'ssl', 'http.client', 'asyncio')]; "
        "print(*heavy, file=sys.stderr, end='')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(PROGRAM.parents[1])],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stderr == f"Error: {NO_ROOT}\n"


def test_a_process_that_began_early_does_not_outlive_a_start_that_failed(tmp_path: Path) -> None:
    ended = run_proxy(tmp_path)
    assert ended.returncode == 255
    wait_for(
        lambda: not any(_points_to(path, tmp_path) for path in Path("/proc").glob("[0-9]*/cwd")),
        what="the end of every process",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_it_at_once_with_0(number: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mesh")  # nobody writes into it: the start waits there
    words = [sys.executable, str(PROGRAM), "proxy", "--meshConfig", "mesh"]
    with subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        assert any("Version" in line for line in agent.stdout)
        agent.send_signal(signal.SIGHUP)
        agent.send_signal(number)
        assert agent.wait(10) == 0


def _points_to(path: Path, folder: Path) -> bool:
    try:
        return path.readlink() == folder
    except OSError:
        return False
