"""The supervision tree with real processes: what dies or hangs comes back, and nothing is left behind."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.process_tree import wait_ended
from tests.support.waiting import wait_for

PROGRAM = Path(__file__).with_name("tree_under_test.py")
ROLES = ("sds", "cert", "downstream-xds", "upstream-xds", "health", "envoy")


class Tree:
    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(directory)],
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    def ask(self, role: str, command: str, *arguments: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self.directory / f"{role}.sock"))
            with client.makefile("rwb") as file:
                file.write(json.dumps([command, *arguments]).encode() + b"\n")
                file.flush()
                answer = file.readline()
        if not answer:
            raise ConnectionResetError(f"{role} ended before it answered {command}")
        return json.loads(answer)

    def pid(self, role: str) -> int:
        return int(self.ask(role, "state")["pid"])

    def up(self) -> "Tree":
        for role in ROLES:
            wait_for(partial(self.pid, role), what=f"{role} to answer")
        return self

    def reborn(self, role: str, old_pid: int, within_s: float = 5.0) -> float:
        begin = time.monotonic()
        wait_for(lambda: self.pid(role) != old_pid, within_s=within_s, what=f"a new {role}")
        return time.monotonic() - begin

    def got(self, role: str, kind: str) -> list[Any]:
        return [entry for entry in self.ask(role, "state")["got"] if entry[0] == kind]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    family: list[psutil.Process] = []
    try:
        tree.up()
        yield tree
    finally:
        family = tree.family() if tree.process.poll() is None else []
        tree.process.kill()
        tree.process.wait()
        left = wait_ended(family, within_s=5)
        for process in left:
            process.kill()
        assert not left, f"left behind: {left}\n{tree.text()}"


def test_every_actor_has_its_name_and_the_supervisor_keeps_its_own(tree: Tree) -> None:
    names = {process.name() for process in tree.family()}
    lines = {" ".join(process.cmdline()).strip() for process in tree.family()}
    assert names >= {"pa-sds", "pa-cert", "pa-upstream-xds", "pa-downstream-x", "pa-health", "pa-envoy"}
    assert lines == {f"pilot-agent: {role}" for role in ROLES}


def test_a_killed_actor_is_back_at_once_and_its_peers_are_told(tree: Tree) -> None:
    old = tree.pid("cert")
    os.kill(old, signal.SIGKILL)
    assert tree.reborn("cert", old) < 1.0
    assert tree.ask("cert", "state")["incarnation"] == 2
    wait_for(lambda: tree.got("sds", "PeerRestarted") == [["PeerRestarted", "cert", 2]])
    assert "actor cert ended: SIGKILL" in tree.text()


def test_an_actor_that_was_left_out_starts_when_it_is_asked_for_and_is_then_like_the_others(
    tree: Tree,
) -> None:
    wait_for(lambda: tree.ask("health", "tree"), what="the tree's state")
    assert "dns" not in {row[0] for row in tree.ask("health", "tree")}
    with pytest.raises(OSError, match=r".*"):
        tree.pid("dns")

    for _ in range(2):  # the second time it runs already
        tree.ask("health", "start", "dns")
    old = wait_for(lambda: tree.pid("dns"), what="dns to answer")
    wait_for(lambda: "dns" in {row[0] for row in tree.ask("health", "tree")}, what="dns in the tree's state")
    tree.ask("health", "start", "nobody")
    os.kill(old, signal.SIGKILL)
    tree.reborn("dns", old)
    wait_for(lambda: tree.got("sds", "PeerRestarted") == [["PeerRestarted", "dns", 2]])


def test_what_waits_in_a_socket_that_was_handed_down_is_read_by_the_successor(tree: Tree) -> None:
    port = tree.ask("sds", "udp")
    old = tree.pid("sds")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        for text in (b"first", b"second"):
            os.kill(old, signal.SIGKILL)
            client.send(text)
            tree.reborn("sds", old)
            old = tree.pid("sds")
            assert tree.ask("sds", "udp") == port
            assert tree.ask("sds", "datagram") == text.decode()
    assert not [
        link
        for link in tree.ask("cert", "descriptors")
        if link in tree.ask("sds", "descriptors") and link.startswith("socket:")
    ]


def test_messages_in_the_queue_survive_the_death_of_their_reader(tree: Tree) -> None:
    old = tree.pid("cert")
    os.kill(old, signal.SIGSTOP)  # it reads nothing any more; the watchdog will kill it
    for name in ("a", "b", "c"):
        tree.ask("sds", "ask_secret", name)
    tree.reborn("cert", old)
    wait_for(lambda: [entry[1] for entry in tree.got("cert", "GetSecret")][-1:] == ["c"])


def test_more_than_the_kernel_queues_waits_in_the_sender_and_arrives_in_order(tree: Tree) -> None:
    old = tree.pid("upstream-xds")
    os.kill(old, signal.SIGSTOP)
    tree.ask("downstream-xds", "request", 5000)  # returns: a sender never blocks its actor
    tree.reborn("upstream-xds", old)
    wait_for(lambda: len(tree.got("upstream-xds", "StreamClosed")) >= 4990)


@pytest.mark.parametrize("size", [2, 200, 96 * 1024, 1_000_000, 30_000_000])
def test_a_body_of_any_size_arrives_whole(tree: Tree, size: int) -> None:
    tree.ask("upstream-xds", "response", size)
    wait_for(lambda: tree.got("downstream-xds", "NameTable") == [["NameTable", size, "01", "02"]])


def test_a_reader_killed_in_the_middle_of_a_large_message_leaves_the_next_one_whole(tree: Tree) -> None:
    old = tree.pid("downstream-xds")
    os.kill(old, signal.SIGSTOP)
    tree.ask("upstream-xds", "response", 20_000_000)
    tree.ask("upstream-xds", "response", 300_000)
    with contextlib.suppress(ProcessLookupError):  # the watchdog was quicker
        os.kill(old, signal.SIGCONT)
        os.kill(old, signal.SIGKILL)
    tree.reborn("downstream-xds", old)
    wait_for(lambda: tree.got("downstream-xds", "NameTable")[-1:] == [["NameTable", 300_000, "01", "02"]])


def test_a_sender_killed_in_the_middle_of_a_large_message_harms_nobody(tree: Tree) -> None:
    reader, sender = tree.pid("downstream-xds"), tree.pid("upstream-xds")
    os.kill(reader, signal.SIGSTOP)
    tree.ask("upstream-xds", "response", 20_000_000)
    os.kill(sender, signal.SIGKILL)
    tree.reborn("upstream-xds", sender)
    with contextlib.suppress(ProcessLookupError):  # the watchdog was quicker: its successor reads on
        os.kill(reader, signal.SIGCONT)
    tree.ask("upstream-xds", "response", 400_000)
    wait_for(lambda: tree.got("downstream-xds", "NameTable")[-1:] == [["NameTable", 400_000, "01", "02"]])
    assert tree.ask("downstream-xds", "state")["bodies"] < 20_000_000


def test_a_notebook_outlives_its_actor(tree: Tree) -> None:
    assert tree.ask("cert", "restore") is None
    tree.ask("cert", "save", "what I know")
    old = tree.pid("cert")
    os.kill(old, signal.SIGKILL)
    tree.reborn("cert", old)
    assert tree.ask("cert", "restore") == "what I know"


def test_a_stopped_actor_is_replaced_within_a_second(tree: Tree) -> None:
    old = tree.pid("health")
    os.kill(old, signal.SIGSTOP)
    assert tree.reborn("health", old) < 1.5
    assert "watchdog: actor health: stopped for" in tree.text()


def test_a_stop_that_is_continued_at_once_is_no_death(tree: Tree) -> None:
    old = tree.pid("health")
    os.kill(old, signal.SIGSTOP)
    os.kill(old, signal.SIGCONT)
    tree.ask("health", "save", "alive")
    os.kill(tree.pid("sds"), signal.SIGKILL)  # an event that comes later than the judgement would have
    wait_for(lambda: tree.ask("sds", "state")["incarnation"] == 2)
    wait_for(lambda: tree.got("health", "PeerRestarted"))
    assert tree.pid("health") == old


def test_a_hung_mailbox_is_seen_and_its_stacks_are_in_the_log(tree: Tree) -> None:
    old = tree.pid("sds")
    tree.ask("sds", "tell", "hang")
    tree.reborn("sds", old, within_s=12)
    assert "watchdog: actor sds: no answer to a heartbeat" in tree.text()
    assert "tree_under_test.py" in tree.text().split("no answer to a heartbeat")[1]


def test_a_memory_blow_up_is_ended(tree: Tree) -> None:
    old = tree.pid("upstream-xds")
    with contextlib.suppress(OSError):  # it may be ended before it has answered
        tree.ask("upstream-xds", "hog", 300)
    tree.reborn("upstream-xds", old)
    assert "private memory got=" in tree.text()


@pytest.mark.parametrize("command", [("tell", "crash"), ("thread_crash",)])
def test_an_error_that_escapes_ends_the_process_and_names_itself(
    tree: Tree, command: tuple[str, ...]
) -> None:
    old = tree.pid("upstream-xds")
    with contextlib.suppress(OSError):  # it may end before it has answered
        tree.ask("upstream-xds", *command)
    tree.reborn("upstream-xds", old)
    assert "told to crash" in tree.text() or "ZeroDivisionError" in tree.text()


def test_a_crash_loop_is_slowed_down_said_and_never_given_up(tree: Tree) -> None:
    for expected in range(2, 6):
        old = tree.pid("health")
        os.kill(old, signal.SIGKILL)
        tree.reborn("health", old, within_s=8)
        assert tree.ask("health", "state")["incarnation"] == expected
    assert tree.process.poll() is None
    assert "error\tactor health ended" in tree.text()


def test_killed_all_at_once_they_all_come_back(tree: Tree) -> None:
    pids = {role: tree.pid(role) for role in ROLES}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for role, pid in pids.items():
        tree.reborn(role, pid)
    tree.ask("sds", "ask_secret", "after")
    wait_for(lambda: ["GetSecret", "after"] in tree.got("cert", "GetSecret"))


def test_a_supervisor_killed_leaves_no_process_behind(tree: Tree) -> None:
    tree.ask("envoy", "spawn", "/bin/sleep", "1000")
    wait_for(lambda: tree.got("envoy", "EnvoySpawned"))
    tree.ask("cert", "worker", "sleep", "x", 60)
    wait_for(lambda: len(tree.family()) == 8)
    family = tree.family()
    tree.process.kill()
    tree.process.wait()
    assert wait_ended(family, within_s=5) == []


def test_actors_ignore_the_signals_of_the_group_and_own_only_their_ends(tree: Tree) -> None:
    assert tree.ask("cert", "ignored") == ["SIGINT", "SIGTERM", "SIGHUP"]
    before = tree.ask("cert", "descriptors")
    sockets = [name for name in before if name.startswith("socket:")]
    # control and its duplicate are one; three inbound, two outbound, its command server and this connection
    assert len(set(sockets)) <= 1 + 3 + 2 + 2, before
    assert sum("notebook" in name for name in before) == 1
    old = tree.pid("cert")
    os.kill(old, signal.SIGKILL)
    tree.reborn("cert", old)
    assert len(tree.ask("cert", "descriptors")) == len(before)


def test_sigterm_lets_envoy_end_first_and_its_word_is_the_exit_status(tree: Tree) -> None:
    tree.process.send_signal(signal.SIGTERM)
    assert tree.process.wait(timeout=10) == 7


def test_workers_return_results_errors_and_their_deaths(tree: Tree) -> None:
    tree.ask("cert", "worker", "upper", "hello", 5)
    wait_for(lambda: tree.got("cert", "worker") == [["worker", "HELLO", ""]])
    tree.ask("cert", "worker", "fail", "this", 5)
    wait_for(lambda: ["worker", None, "cannot do this"] in tree.got("cert", "worker"))
    tree.ask("cert", "worker", "die", "x", 5)
    wait_for(lambda: ["worker", None, "killed by signal 9"] in tree.got("cert", "worker"))
    tree.ask("cert", "worker", "sleep", "x", 0.2)
    wait_for(lambda: ["worker", None, "timed out"] in tree.got("cert", "worker"))
    tree.ask("cert", "worker", "unknown", "x", 5)
    wait_for(lambda: len(tree.got("cert", "worker")) == 5)


def test_envoys_end_is_told_to_whoever_is_envoy_actor_then(tree: Tree) -> None:
    tree.ask("envoy", "spawn", "/bin/sleep", "1000")
    (_, envoy_pid), *_ = wait_for(lambda: tree.got("envoy", "EnvoySpawned"))
    old = tree.pid("envoy")
    os.kill(old, signal.SIGKILL)
    tree.reborn("envoy", old)
    wait_for(lambda: tree.got("envoy", "EnvoyInventory") == [["EnvoyInventory", [envoy_pid], []]])
    os.kill(envoy_pid, signal.SIGKILL)
    wait_for(lambda: tree.got("envoy", "EnvoyExited") == [["EnvoyExited", envoy_pid, 9]])
    again = tree.pid("envoy")
    os.kill(again, signal.SIGKILL)
    tree.reborn("envoy", again)
    wait_for(lambda: tree.got("envoy", "EnvoyInventory") == [["EnvoyInventory", [], [9]]])


def test_an_envoy_that_is_not_there_is_said_as_the_reference_says_it(tree: Tree) -> None:
    tree.ask("envoy", "spawn", "/nowhere/envoy")
    wait_for(
        lambda: (
            tree.got("envoy", "EnvoySpawnFailed")
            == [["EnvoySpawnFailed", "fork/exec /nowhere/envoy: no such file or directory"]]
        )
    )


def test_counters_survive_the_death_of_their_process(tree: Tree) -> None:
    def counted() -> float:
        rows = tree.ask("health", "tree") or []
        return next((row[5].get('thing{type="x"}', 0.0) for row in rows if row[0] == "sds"), 0.0)

    tree.ask("sds", "count", "thing")
    wait_for(lambda: counted() == 2.0)
    old = tree.pid("sds")
    os.kill(old, signal.SIGKILL)
    tree.reborn("sds", old)
    tree.ask("sds", "count", "thing")
    wait_for(lambda: counted() == 4.0)


def test_a_freeze_of_the_whole_group_kills_nobody(tmp_path: Path) -> None:
    tree = Tree(tmp_path, LATE_S="1.5")
    try:
        tree.up()
        pids = {role: tree.pid(role) for role in ROLES}
        everybody = [psutil.Process(tree.process.pid), *tree.family()]
        frozen = Path("/sys/fs/cgroup/freezer")
        if os.geteuid() != 0 or not frozen.is_dir():
            pytest.skip("no freezer cgroup that this user may use")
        group = frozen / f"test-{os.getpid()}"
        group.mkdir()
        try:
            for process in everybody:
                (group / "cgroup.procs").write_text(str(process.pid))
            (group / "freezer.state").write_text("FROZEN")
            wait_for(lambda: (group / "freezer.state").read_text().strip() == "FROZEN")
            begin = time.monotonic()
            wait_for(lambda: time.monotonic() - begin > 5)
            (group / "freezer.state").write_text("THAWED")
            wait_for(lambda: "frozen or suspended" in tree.text())
            first = tree.ask("health", "tree")
            wait_for(lambda: tree.ask("health", "tree") != first)
            assert {role: tree.pid(role) for role in ROLES} == pids
        finally:
            (group / "freezer.state").write_text("THAWED")
            for process in everybody:
                (frozen / "cgroup.procs").write_text(str(process.pid))
            group.rmdir()
    finally:
        tree.process.kill()
        tree.process.wait()


def test_an_actor_that_cannot_be_forked_now_is_forked_when_it_can(tree: Tree) -> None:
    old = tree.pid("health")
    limits = resource.prlimit(tree.process.pid, resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path(f"/proc/{tree.process.pid}/fd").iterdir())
    resource.prlimit(tree.process.pid, resource.RLIMIT_NOFILE, (highest - 8, limits[1]))
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: "actor health cannot be started" in tree.text())
    resource.prlimit(tree.process.pid, resource.RLIMIT_NOFILE, limits)
    tree.reborn("health", old)
    assert tree.process.poll() is None
