"""The last lines of the log, kept in shared memory."""

import os
from collections.abc import Iterator

import pytest

from pilot_agent.log import get_logger, recent_lines
from pilot_agent.log.ring import SIZE_BYTES, append, recent


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("ring")
    yield descriptor
    os.close(descriptor)


def test_lines_come_back_in_order(file: int) -> None:
    assert recent(file) == b""
    for n in range(3):
        append(file, b"line %d\n" % n)
    assert recent(file) == b"line 0\nline 1\nline 2\n"


def test_the_oldest_go_first_and_no_half_line_is_shown(file: int) -> None:
    for n in range(10_000):
        append(file, b"line number %d\n" % n)
    lines = recent(file).decode().splitlines()
    assert lines == [f"line number {n}" for n in range(10_000 - len(lines), 10_000)]
    assert SIZE_BYTES - 100 < len(recent(file)) <= SIZE_BYTES
    assert os.fstat(file).st_size <= SIZE_BYTES + 8


def test_a_long_line_is_cut(file: int) -> None:
    append(file, b"x" * 100_000 + b"\n")
    assert recent(file) == b"x" * 4091 + b" ...\n"


def test_what_is_logged_can_be_read_again_by_another_process(capfd: pytest.CaptureFixture[str]) -> None:
    pid = os.fork()
    if pid == 0:
        get_logger().info("said by a child")
        os._exit(0)
    os.waitpid(pid, 0)
    get_logger().warn("said by the parent")
    assert recent_lines().decode().splitlines()[-2:] == capfd.readouterr().out.splitlines()
