"""OUTPUT_CERTS: one set at a time, whatever stood there before and whenever somebody looks."""

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

from pilot_agent.security.output_certs import CHAIN, KEY, ROOTS, OutputCerts
from tests.support.waiting import wait_for

SET = {KEY: b"key 1", CHAIN: b"chain 1", ROOTS: b"roots 1"}


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in (KEY, CHAIN, ROOTS)}


def numbered(number: int) -> dict[str, bytes]:
    return {name: f"{name} {number}".encode() for name in SET}


def read_within(directory: Path) -> set[bytes]:
    """Open `..data` once and return the numbers of the three files read in it; fewer if it went away."""
    found: set[bytes] = set()
    with contextlib.suppress(FileNotFoundError):  # two sets came meanwhile: nothing mismatched is read
        descriptor = os.open(directory / "..data", os.O_PATH | os.O_DIRECTORY)
        try:
            for name in (KEY, CHAIN, ROOTS):
                file = os.open(name, os.O_RDONLY, dir_fd=descriptor)
                found.add(os.read(file, 100).split()[1])
                os.close(file)
        finally:
            os.close(descriptor)
    return found


def test_the_stable_names_lead_through_one_link_and_only_the_owner_reads(tmp_path: Path) -> None:
    assert OutputCerts(str(tmp_path), shared=False).write(SET)
    assert contents(tmp_path) == SET
    for name in SET:
        assert (tmp_path / name).readlink() == Path("..data") / name
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_in_kubernetes_every_container_of_the_pod_reads_the_key_too(tmp_path: Path) -> None:
    OutputCerts(str(tmp_path), shared=True).write(SET)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in SET} == {0o644}
    assert stat.S_IMODE((tmp_path / "..data").stat().st_mode) == 0o755


def test_plain_files_of_an_older_agent_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    for name in SET:
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "mine.txt").write_text("x")
    (tmp_path / "..data_new").symlink_to("nowhere")  # of a killed predecessor
    OutputCerts(str(tmp_path), shared=False).write(SET)
    assert contents(tmp_path) == SET
    assert (tmp_path / "mine.txt").read_text() == "x"


def test_the_same_again_is_not_written_and_a_part_keeps_the_rest(tmp_path: Path) -> None:
    output = OutputCerts(str(tmp_path), shared=False)
    output.write(SET)
    before = (tmp_path / "..data").readlink()
    assert not output.write(SET)
    assert not OutputCerts(str(tmp_path), shared=False).write({ROOTS: b"roots 1"})
    assert (tmp_path / "..data").readlink() == before
    assert output.write({ROOTS: b"roots 2"})
    assert contents(tmp_path) == SET | {ROOTS: b"roots 2"}


def test_a_directory_that_is_missing_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        OutputCerts(str(tmp_path / "gone"), shared=False).write(SET)
    assert list(tmp_path.iterdir()) == []


def test_two_sets_at_most_are_kept(tmp_path: Path) -> None:
    output = OutputCerts(str(tmp_path), shared=False)
    for number in range(5):
        output.write(numbered(number))
    assert len([each for each in tmp_path.iterdir() if each.name.startswith("..set-")]) == 2


def test_a_reader_that_opens_the_link_once_never_sees_a_mismatched_set(tmp_path: Path) -> None:
    """As many rotations as PILOT_AGENT_OUTPUT_ROTATIONS says; 10,000 take half a minute on tmpfs."""
    rotations = int(os.environ.get("PILOT_AGENT_OUTPUT_ROTATIONS", "300"))
    output, over = OutputCerts(str(tmp_path), shared=False), threading.Event()
    output.write(numbered(0))
    seen: list[set[bytes]] = []

    def read() -> None:
        while not over.is_set():
            seen.append(read_within(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, rotations + 1):
            output.write(numbered(number))
        wait_for(lambda: seen and seen[-1] == {str(rotations).encode()}, what="the last set")
    finally:
        over.set()
        reader.join()
    assert [each for each in seen if len(each) > 1] == []
    assert len({number for each in seen for number in each}) > 10  # it read between the rotations
