"""What systemd is told, by a socket that listens as systemd does."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot_agent.service_manager import ServiceManager
from tests.support.agent import short_directory


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with short_directory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(directory / "notify"))
        bound.settimeout(5)
        yield bound


def told(listener: socket.socket) -> list[str]:
    listener.setblocking(False)
    found = []
    while True:
        try:
            found += listener.recv(4096).decode().splitlines()
        except BlockingIOError:
            return found


def test_ready_is_said_once_and_only_when_all_are(listener: socket.socket) -> None:
    manager = ServiceManager(listener.getsockname())
    manager.look(all_ready=False)
    assert told(listener) == []
    manager.look(all_ready=True)
    manager.look(all_ready=True)
    assert told(listener) == ["READY=1", "STATUS=all parts of the agent are up"]
    manager.ending()
    assert told(listener)[0] == "STOPPING=1"


def test_the_watchdog_hears_twice_within_its_time_and_not_at_each_look(listener: socket.socket) -> None:
    manager = ServiceManager(listener.getsockname(), watchdog_s=60.0)
    for _ in range(3):
        manager.look(all_ready=False)
    assert told(listener) == ["WATCHDOG=1"]
    eager = ServiceManager(listener.getsockname(), watchdog_s=1e-9)
    for _ in range(3):
        eager.look(all_ready=False)
    assert told(listener) == ["WATCHDOG=1"] * 3


def test_the_variables_are_taken_away_from_whatever_is_started_later(listener: socket.socket) -> None:
    variables = {
        "NOTIFY_SOCKET": listener.getsockname(),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "7",
        "A": "b",
    }
    ServiceManager.take(variables, pid=7).look(all_ready=False)
    assert variables == {"A": "b"}
    assert told(listener) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": ""},
        {},
    ],
    ids=["for another process", "no number", "empty", "absent"],
)
def test_a_watchdog_that_is_not_for_this_process_hears_nothing(
    variables: dict[str, str], listener: socket.socket
) -> None:
    manager = ServiceManager.take({"NOTIFY_SOCKET": listener.getsockname(), **variables}, pid=7)
    manager.look(all_ready=False)
    assert told(listener) == []


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0pilot-agent-test-{os.getpid()}")
        ServiceManager(f"@pilot-agent-test-{os.getpid()}").look(all_ready=True)
        assert told(bound)[0] == "READY=1"


def test_a_service_manager_that_is_gone_is_warned_of_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manager = ServiceManager(str(tmp_path / "nobody"), watchdog_s=1e-9)
    for _ in range(3):
        manager.look(all_ready=True)
    manager.ending()
    assert capfd.readouterr().out.count("cannot be told READY=1") == 1


def test_nobody_is_told_anything_outside_of_a_service() -> None:
    manager = ServiceManager.take({}, pid=os.getpid())
    manager.look(all_ready=True)
    manager.ending()
