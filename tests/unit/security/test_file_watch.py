"""The watch tells of every way in which certificate files are replaced, the thousandth time, too."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot_agent.security.file_watch import FileWatch, places

WITHIN_S = 5.0


class Follower:
    """Follows one path; `told` waits for the next call and follows anew, as the actor does."""

    def __init__(self, path: Path) -> None:
        self._path, self._called = path, threading.Event()
        self.watch = FileWatch(self._called.set)
        self.watch.follow([str(path)])

    def told(self, within_s: float = WITHIN_S) -> bool:
        found = self._called.wait(within_s)
        self._called.clear()
        self.watch.follow([str(self._path)])
        return found

    def drain(self) -> None:
        """Take calls until there are no more of what has happened."""
        while self.told(0.05):
            pass


def publish(volume: Path, text: str, number: int) -> None:
    """Change a volume as the kubelet does."""
    made = volume / f"..{number}"
    made.mkdir()
    (made / "cert.pem").write_text(text)
    new = volume / "..data_tmp"
    new.symlink_to(made.name)
    old = (volume / "..data").readlink() if (volume / "..data").is_symlink() else None
    new.rename(volume / "..data")
    if old is None:
        (volume / "cert.pem").symlink_to("..data/cert.pem")
    else:
        shutil.rmtree(volume / old)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "certs"
    made.mkdir()
    (made / "cert.pem").write_text("0")
    return made


def replaced(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def slowly_written(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.flush()
        file.write(text)


CHANGES: dict[str, Callable[[Path, str], None]] = {"renamed over": replaced, "truncated": slowly_written}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_of_many_changes_is_told(folder: Path, change: Callable[[Path, str], None]) -> None:
    follower = Follower(folder / "cert.pem")
    for number in range(200):
        change(folder / "cert.pem", str(number))
        assert follower.told(), f"change {number}"
        follower.drain() if number % 50 == 0 else None


def test_a_thousand_publications_of_the_kubelet_are_told(tmp_path: Path) -> None:
    publish(tmp_path, "0", 0)
    follower = Follower(tmp_path / "cert.pem")
    for number in range(1, 1001):
        publish(tmp_path, str(number), number)
        assert follower.told(), f"publication {number}"


def test_deletion_and_return_of_the_file_and_of_its_directory(folder: Path) -> None:
    follower = Follower(folder / "cert.pem")
    (folder / "cert.pem").unlink()
    assert follower.told()
    follower.drain()
    (folder / "cert.pem").write_text("back")
    assert follower.told()
    follower.drain()
    shutil.rmtree(folder)
    assert follower.told()
    follower.drain()
    folder.mkdir()
    assert follower.told()
    follower.drain()
    (folder / "cert.pem").write_text("back again")
    assert follower.told()


def test_a_directory_that_comes_later_with_all_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cert.pem"
    follower = Follower(path)
    for made in (tmp_path / "a", tmp_path / "a" / "b"):
        made.mkdir()
        assert follower.told(), made
        follower.drain()
    path.write_text("here")
    assert follower.told()


def test_a_link_in_any_parent_that_is_turned_and_what_it_leads_to(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "cert.pem").write_text(name)
    (tmp_path / "link").symlink_to("one")
    follower = Follower(tmp_path / "link" / "deep" / "cert.pem")
    for _ in range(3):  # the target of a link is replaced: every time, not the first time alone
        replaced(tmp_path / "one" / "deep" / "cert.pem", "new")
        assert follower.told()
        follower.drain()
    new = tmp_path / "new"
    new.symlink_to("two")
    new.rename(tmp_path / "link")
    assert follower.told()
    follower.drain()
    replaced(tmp_path / "two" / "deep" / "cert.pem", "newer")
    assert follower.told()


def test_a_parent_that_is_moved_away_and_another_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "cert.pem").write_text("old")
    follower = Follower(tmp_path / "a" / "b" / "cert.pem")
    (tmp_path / "a").rename(tmp_path / "away")
    assert follower.told()
    follower.drain()
    (tmp_path / "other" / "b").mkdir(parents=True)
    (tmp_path / "other" / "b" / "cert.pem").write_text("new")
    (tmp_path / "other").rename(tmp_path / "a")
    assert follower.told()


def test_neighbours_and_reads_tell_nothing_and_a_storm_is_one_call(folder: Path) -> None:
    calls: list[None] = []
    watch = FileWatch(lambda: calls.append(None))
    watch.follow([str(folder / "cert.pem")])
    (folder / "other.txt").write_text("x")
    (folder / "cert.pem").read_text()
    for _ in range(100):
        (folder / "cert.pem").write_text("y")
    told = Follower(folder / "cert.pem")
    (folder / "cert.pem").write_text("z")
    assert told.told()
    assert len(calls) == 1


def test_a_ring_of_links_and_a_path_without_permission_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert str(tmp_path) in places(str(tmp_path / "a"))
    assert places("/") == {}


def test_without_a_watch_from_the_kernel_the_error_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMore:
        def inotify_init1(self, _flags: int) -> int:
            import ctypes

            ctypes.set_errno(24)
            return -1

    monkeypatch.setattr("pilot_agent.security.file_watch._libc", NoMore())
    with pytest.raises(OSError, match=os.strerror(24)):
        FileWatch(lambda: None).follow([str(folder / "cert.pem")])
