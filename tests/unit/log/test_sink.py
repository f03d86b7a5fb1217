"""What several writers and awkward targets do to lines: nothing."""

import contextlib
import fcntl
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pilot_agent.log.sink import Sink
from tests.support.waiting import wait_for

LONG = 3 * 65536 + 17  # more than a pipe holds


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def sink_to(descriptor: int) -> Sink:
    return Sink((f"/dev/fd/{descriptor}",))


def collected(reader: int) -> bytes:
    """Return all that was written, once every writer has closed its end."""
    parts = []
    while data := os.read(reader, 1 << 20):
        parts.append(data)
    return b"".join(parts)


def assert_whole(written: bytes, expected: dict[str, int]) -> None:
    """Every line consists of one letter alone, and each letter has its number of lines."""
    lines = written.decode().split("\n")
    assert lines.pop() == ""
    assert all(re.fullmatch(r"(.)\1*", line) for line in lines)
    assert {letter: sum(line[0] == letter for line in lines) for letter in expected} == expected


def test_lines_of_several_processes_never_mix_on_a_pipe(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = sink_to(writer)
    sizes = (10, 4095, 4096, 5000, LONG)

    def write(letter: str) -> None:
        for size in 5 * sizes:
            sink.write(letter * size)

    children = [in_child(partial(write, letter)) for letter in "abcd"]
    os.close(writer)
    sink.close()
    written = collected(reader)
    for pid in children:
        os.waitpid(pid, 0)
    assert_whole(written, dict.fromkeys("abcd", 5 * len(sizes)))


def test_lines_of_several_threads_never_mix(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = sink_to(writer)

    def write(letter: str) -> None:
        for _ in range(5):
            sink.write(letter * LONG)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]

    def close_behind_them() -> None:
        for thread in threads:
            thread.join()
        sink.close()

    os.close(writer)
    for thread in threads:
        thread.start()
    closer = threading.Thread(target=close_behind_them)
    closer.start()
    written = collected(reader)
    closer.join()
    assert_whole(written, dict.fromkeys("abc", 5))


def test_a_child_writes_though_a_thread_of_its_parent_held_the_mutex(tmp_path: Path) -> None:
    target = tmp_path / "log"
    sink = Sink((str(target),))
    os.register_at_fork(after_in_child=sink.renew_mutex)
    with sink._mutex:
        pid = in_child(lambda: sink.write("from the child"))
        _, status = os.waitpid(pid, 0)
    assert status == 0
    assert target.read_text() == "from the child\n"


def test_a_killed_holder_lets_go_of_the_lock(tmp_path: Path) -> None:
    target = tmp_path / "log"
    sink = Sink((str(target),))
    pid = _holder(sink)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    began_s = time.monotonic()
    sink.write("after it")
    assert target.read_text() == "after it\n"
    assert time.monotonic() - began_s < 0.9


def test_a_holder_that_is_stopped_holds_the_others_up_once_and_briefly(tmp_path: Path) -> None:
    target = tmp_path / "log"
    sink = Sink((str(target),))
    pid = _holder(sink)
    try:
        began_s = time.monotonic()
        for number in range(100):
            sink.write(f"{number}")
        assert time.monotonic() - began_s < 5
        assert target.read_text() == "".join(f"{number}\n" for number in range(100))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _holder(sink: Sink) -> int:
    """Return a process that is stopped while it holds the lock."""
    lock_file = sink.descriptors()[-1]

    def hold() -> None:
        fcntl.lockf(lock_file, fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = in_child(hold)
    os.waitpid(pid, os.WUNTRACED)
    return pid


def test_a_non_blocking_stdout_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = sink_to(writer)
    os.set_blocking(sink.descriptors()[0], False)
    child = in_child(lambda: sink.write("a" * LONG))
    os.close(writer)
    sink.close()
    written = collected(reader)
    os.waitpid(child, 0)
    assert_whole(written, {"a": 1})


def test_a_failure_is_told_on_stderr_once_until_it_works_again(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair()
    sink = Sink(("stdout",))
    sink._descriptors = (ours.fileno(),)
    with ours:
        theirs.close()
        sink.write("lost")
        sink.write("lost too")
    assert capfd.readouterr().err == "log write failed: [Errno 32] Broken pipe\n"


def test_a_target_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    def own_descriptors() -> set[str]:
        return {
            found
            for entry in Path("/proc/self/fd").iterdir()
            if (found := _link(entry)).startswith(("/memfd:log-lock", str(tmp_path)))
        }

    before = own_descriptors()
    with pytest.raises(FileNotFoundError):
        Sink((str(tmp_path / "log"), str(tmp_path / "missing" / "log")))
    assert own_descriptors() == before


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""


def test_bytes_that_are_no_text_are_written_visibly(tmp_path: Path) -> None:
    target = tmp_path / "log"
    Sink((str(target),)).write("caf\udce9")
    assert target.read_text() == "caf\\udce9\n"


def test_a_line_is_there_as_soon_as_it_was_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink_to(writer).write("now")
    os.set_blocking(reader, False)
    assert wait_for(lambda: os.read(reader, 100), within_s=1) == b"now\n"
