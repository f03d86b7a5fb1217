"""Past Envoy's admin port: the flag of a failed epoch, and what a child says to its parent."""

import socket
import struct
from pathlib import Path

import pytest

from pilot_agent.envoy.handover import ask_to_drain, heal


def memory(size: int = 104, version: int = 11, flags: int = 1, locks: bytes = b"\x07" * 80) -> bytes:
    return struct.pack("=QQ", size, version) + locks + struct.pack("=Q", flags)


def test_the_flag_is_taken_back_and_nothing_else_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(memory())
    assert heal(path) == ""
    assert path.read_bytes() == memory(flags=0)


def test_good_memory_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(memory(flags=0))
    path.chmod(0o600)
    assert heal(path) == ""
    assert path.read_bytes() == memory(flags=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (memory(version=12), "is of another version: size 104, version 12, flags 1"),
        (memory(size=112), "is of another version: size 112, version 11, flags 1"),
        (memory(flags=3), "is of another version: size 104, version 11, flags 3"),
        (memory() + bytes(8), "has another layout than the one that is known"),
        (b"", "has another layout than the one that is known"),
        (b"short", "has another layout than the one that is known"),
    ],
)
def test_memory_that_is_not_understood_is_not_written(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "memory"
    path.write_bytes(content)
    assert heal(path) == f"{path} {said}"
    assert path.read_bytes() == content


def test_memory_that_is_gone_is_said_so(tmp_path: Path) -> None:
    assert heal(tmp_path / "gone") == f"{tmp_path}/gone: No such file or directory"


def test_a_parent_is_told_to_drain_in_envoy_s_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as parent:
        parent.bind("hr_parent_70")
        assert ask_to_drain(Path("hr_parent_70")) == ""
        assert parent.recv(100) == b"\0\0\0\0\0\0\0\x04\x0a\x02\x22\x00"
    assert ask_to_drain(Path("hr_parent_70")) == "hr_parent_70: Connection refused"
    assert ask_to_drain(Path("gone")) == "gone: No such file or directory"
