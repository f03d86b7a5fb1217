"""The agent as one executable file: what it says, where it unpacks, and a pod that runs it."""

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.istiod import Istiod
from lab.mesh import load_mesh
from tests.scenarios.conftest import agent_for
from tests.support.agent import REPOSITORY
from tests.support.image_root import Root
from tests.support.pod_checks import lives_and_dies_as_kubernetes_wants
from tests.support.real_envoy import PortMap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("single")
    directory.chmod(0o755)
    output = directory / "pilot-agent"
    subprocess.run([sys.executable, REPOSITORY / "bin/build-single-file", output], check=True)
    return output


def start(
    program: Path, *words: str, cache: Path | str, python: str = ""
) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
    return subprocess.run(
        [*([python] if python else []), str(program), *words],
        env={"PATH": path, "PILOT_AGENT_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_unpacks_once_and_needs_nothing_else_of_the_machine(program: Path, tmp_path: Path) -> None:
    first = start(program, "version", cache=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    (unpacked,) = tmp_path.iterdir()
    before = unpacked.stat().st_mtime_ns
    assert start(program, "version", cache=tmp_path).stdout == first.stdout
    assert unpacked.stat().st_mtime_ns == before
    seen = start(
        program, "help", cache=tmp_path, python=sys.executable
    )  # also when it is not run by its shebang
    assert "proxy" in seen.stdout


def test_starts_at_the_same_time_unpack_it_whole(program: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda _: start(program, "version", cache=tmp_path), range(4)))
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * 4
    assert len(list(tmp_path.iterdir())) == 1


def test_another_python_is_told_in_one_line(program: Path, tmp_path: Path) -> None:
    others = [path for minor in range(6, 16) if (path := shutil.which(f"python3.{minor}"))]
    others += map(str, Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3"))
    tried = 0
    for python in others:
        tag = subprocess.run(
            [python, "-c", "import sys; print(sys.implementation.cache_tag)"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        if tag in ("", sys.implementation.cache_tag):
            continue
        ended = start(program, "version", cache=tmp_path, python=python)
        expected = (
            f"this file is for {sys.implementation.cache_tag} on {platform.machine()}, this is {tag} on"
        )
        assert ended.returncode == 255
        assert ended.stderr.startswith(f"Error: {expected}")
        assert ended.stderr.count("\n") == 1
        tried += 1
    if not tried:
        pytest.skip("there is no other Python on this machine")


def test_a_place_that_cannot_be_written_is_told_in_one_line(program: Path) -> None:
    ended = start(program, "version", cache="/proc/nowhere")
    assert ended.returncode == 255
    assert ended.stderr.startswith("Error: cannot unpack to /proc/nowhere: ")
    assert "PILOT_AGENT_CACHE" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_code_that_others_could_have_put_there_is_not_run(program: Path, tmp_path: Path) -> None:
    start(program, "version", cache=tmp_path)
    (unpacked,) = tmp_path.iterdir()
    unpacked.chmod(0o777)
    ended = start(program, "version", cache=tmp_path)
    assert ended.returncode == 255
    assert f"{unpacked} is there, but others could have written it" in ended.stderr


@pytest.mark.envoy
@pytest.mark.root
def test_an_injected_pod_lives_and_dies_with_it(program: Path, workdir: Path) -> None:
    root = Root.of_this_machine(program=program)
    lives_and_dies_as_kubernetes_wants("sidecar-native", workdir, root=root, sizes={"istio-data": "200m"})


@pytest.mark.envoy
def test_the_agent_that_it_is_becomes_another_single_file(program: Path, workdir: Path) -> None:
    mesh = load_mesh().with_ports(PortMap())
    following = shutil.copy2(program, workdir / "pilot-agent-2")
    with Istiod(mesh) as istiod:
        agent = agent_for(istiod, workdir / "agent")
        agent.environment |= {"PILOT_AGENT_CACHE": str(workdir / "cache")}
        agent.environment["PATH"] = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
        at = agent._command.index("proxy")
        agent._command[:at] = [str(program)]
        with agent:
            agent.wait_ready()
            (envoy,) = agent.envoys()
            done = subprocess.run(
                [following, "upgrade"],
                cwd=agent.directory,
                env=agent.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert agent.process is not None
            expected = f"process {agent.process.pid} is now {following}\n"
            assert (done.returncode, done.stdout) == (0, expected), done.stderr
            assert agent.envoys() == [envoy]
            assert agent.is_ready()
            assert agent.quit() == 0
