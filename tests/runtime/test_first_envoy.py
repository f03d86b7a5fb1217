"""The Envoy that is spawned before the actors are imported. Small scripts stand in for Envoy."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.messages.control import EnvoyExited, EnvoySpawned, EnvoySpawnFailed, SpawnEnvoy
from actors.runtime.envoys import EnvoyKeeper
from actors.runtime.first_envoy import FirstEnvoy, first_envoy
from actors.runtime.held_back import HeldBack
from actors.runtime.roles import Role
from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.bootstrap.platform import UNKNOWN
from pilot_agent.environment import Environment
from pilot_agent.envoy import EnvoyOptions
from pilot_agent.proxyconfig import Loaded, Node, ProxyConfig, ProxyFlags
from tests.support.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
SOCKETS = {Role.SDS: "run/sds", Role.DOWNSTREAM_XDS: "etc/istio/proxy/XDS"}
LIVES = "exec sleep 100"
DIES = "exit 3"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def options(script: str | None = LIVES, **variables: str) -> tuple[EnvoyOptions, BootstrapOptions]:
    program = Path.cwd() / "envoy"
    if script is not None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    config = ProxyConfig(binary_path=str(program))
    node = Node(role="sidecar", ip_addresses=("10.0.0.1",), id="pod.ns", domain="d")
    environment = Environment({"PATH": os.environ["PATH"], **variables})
    loaded = Loaded(proxy_config=config, node=node, labels=None, annotations=None, flags=ProxyFlags())
    bootstrap = BootstrapOptions.build(environment, loaded, platform=UNKNOWN, credential_socket=False)
    return EnvoyOptions.build(environment, config, node), bootstrap


def files() -> set[str]:
    """Return what there is in the directories of sockets and configuration."""
    return {str(each) for place in ("run", "etc") for each in Path(place).rglob("*") if not each.is_dir()}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def fail_beside(known: EnvoyOptions, bootstrap: BootstrapOptions, pids: list[int]) -> None:
    with first_envoy(known, bootstrap, SOCKETS) as first:
        assert first is not None
        pids.append(first.pid)
        raise ModuleNotFoundError("pykka")


def test_it_lives_and_who_connects_to_its_sockets_waits_for_the_actors() -> None:
    with first_envoy(*options(), SOCKETS) as first:
        assert first is not None
        assert is_alive(first.pid)
        assert Path(first.prepared.bootstrap_path).stat().st_mode & 0o777 == 0o600
        assert set(first.listeners) == set(SOCKETS)
        for path in SOCKETS.values():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
    assert is_alive(first.pid), "leaving the block in order hands it over"
    os.kill(first.pid, signal.SIGKILL)
    os.waitpid(first.pid, 0)


def test_an_error_in_the_block_ends_it_and_leaves_nothing() -> None:
    pids: list[int] = []
    with pytest.raises(ModuleNotFoundError):
        fail_beside(*options(), pids)
    assert not is_alive(pids[0])
    assert files() == set()


def test_without_its_sockets_it_is_left_to_the_actors_which_say_why() -> None:
    Path("run").write_text("no directory")
    with first_envoy(*options(), SOCKETS) as first:
        assert first is None
    assert files() == set()


def test_a_program_that_is_not_there_is_left_to_envoy_actor() -> None:
    with first_envoy(*options(script=None), SOCKETS) as first:
        assert first is None
    assert files() == set()


def test_where_envoy_is_disabled_nothing_is_touched() -> None:
    with first_envoy(*options(DISABLE_ENVOY="true"), SOCKETS) as first:
        assert first is None
    assert files() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_start_with_0_and_leaves_nothing(number: int) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from tests.runtime.test_first_envoy import SOCKETS, options
from actors.runtime.first_envoy import first_envoy
with first_envoy(*options(), SOCKETS) as first:
    print(first.pid, flush=True)
    time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        agent.send_signal(number)
        assert agent.wait(10) == 0
    assert not is_alive(pid)
    assert files() == set()


class Claimed:
    """A keeper with the first Envoy, and what EnvoyActor is told when it asks."""

    def __init__(self, first: FirstEnvoy | None) -> None:
        assert first is not None
        self.keeper = EnvoyKeeper()
        self.keeper.take_in(first.pid, first.generation)
        self.pid = first.pid
        self.held_back = HeldBack(self.keeper, (Role.SDS,), lambda _: False)

    def ask(self, argv: tuple[str, ...] = ("envoy",)) -> list[object]:
        self.held_back.add(SpawnEnvoy(generation=0, argv=argv, environment={}, uid=-1, gid=-1))
        return list(self.held_back.spawn(waited=False))


def test_envoy_actor_gets_it_when_it_asks_and_waits_for_no_other_actor() -> None:
    with first_envoy(*options(), SOCKETS) as first:
        claimed = Claimed(first)
    assert claimed.keeper.inventory().alive == ()
    (told,) = claimed.ask()
    assert isinstance(told, EnvoySpawned)
    assert told.process.pid == claimed.pid
    assert claimed.keeper.inventory().alive == (told.process,)
    os.kill(claimed.pid, signal.SIGKILL)
    os.waitpid(claimed.pid, 0)


def test_one_that_died_before_it_was_asked_for_is_spawned_and_then_exited() -> None:
    with first_envoy(*options(DIES), SOCKETS) as first:
        claimed = Claimed(first)
    _, status = os.waitpid(claimed.pid, 0)
    assert claimed.keeper.exited(claimed.pid, status) is None, "nobody has asked for it yet"
    assert claimed.keeper.inventory().ended == ()
    spawned, exited = claimed.ask()
    assert isinstance(spawned, EnvoySpawned)
    assert isinstance(exited, EnvoyExited)
    assert os.waitstatus_to_exitcode(exited.status) == 3
    assert exited.process == spawned.process


def test_when_the_agent_ends_before_it_was_asked_for_it_ends_at_once() -> None:
    with first_envoy(*options(), SOCKETS) as first:
        claimed = Claimed(first)
    claimed.keeper.end_unclaimed()
    assert not is_alive(claimed.pid)
    assert not claimed.keeper.any_alive()
    refused = claimed.ask(argv=("/nowhere",))
    assert refused == [], "it is an ordinary wish now, which waits for the others"
    (failed,) = claimed.held_back.spawn(waited=True)
    assert isinstance(failed, EnvoySpawnFailed)


def test_it_ends_with_the_agent_that_is_killed() -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from tests.runtime.test_first_envoy import SOCKETS, options
from actors.runtime.first_envoy import first_envoy
with first_envoy(*options(), SOCKETS) as first:
    print(first.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
    began_s = time.monotonic()
    wait_for(lambda: not is_alive(pid))
    assert time.monotonic() - began_s < 10


def test_the_next_start_clears_what_a_killed_one_left() -> None:
    known, bootstrap = options()
    with first_envoy(known, bootstrap, SOCKETS) as first:
        assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    os.waitpid(first.pid, 0)
    assert files()
    with pytest.raises(ModuleNotFoundError):
        fail_beside(known, bootstrap, [])
    assert files() == set()
