import socket
import stat
from pathlib import Path

import pytest

from pilot_agent.sockets import BoundSocket, SocketError, listen_unix


def names(directory: str) -> list[str]:
    return sorted(entry.name for entry in Path(directory).iterdir())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # socket names are short, and relative as in the agent
    return tmp_path


def who_answers(path: str, *listeners: socket.socket) -> int:
    """Return which of the listeners a client of `path` comes to."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        for number, each in enumerate(listeners):
            each.settimeout(0.2)
            try:
                each.accept()[0].close()
            except TimeoutError:
                continue
            return number
    raise AssertionError("nobody answers")


def test_a_client_reaches_the_server_under_the_final_name_with_mode_and_directory_as_asked(
    folder: Path,
) -> None:
    listener, bound = listen_unix("./a/b/socket")
    with listener:
        assert who_answers("./a/b/socket", listener) == 0
        assert stat.S_IMODE(Path("a/b/socket").stat().st_mode) == 0o666
        assert {stat.S_IMODE(Path(made).stat().st_mode) & ~0o750 for made in ("a", "a/b")} == {0}
        assert names("a/b") == ["socket"]
    assert bound.unlink()
    assert not bound.unlink()


def test_an_old_server_that_ends_leaves_its_successors_socket_alone(folder: Path) -> None:
    old, bound_old = listen_unix("./socket")
    with old:
        assert who_answers("./socket", old) == 0
        new, bound_new = listen_unix("./socket")
        with new:
            assert not bound_old.unlink()
            assert who_answers("./socket", old, new) == 1
            assert bound_new.unlink()


def test_sockets_that_killed_servers_left_behind_are_removed_and_other_files_are_not(folder: Path) -> None:
    for name in ("socket.17", "socket", "other.17"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(name)
    Path("socket.18").write_text("no socket")

    listener, _ = listen_unix("socket")

    assert names(".") == ["other.17", "socket", "socket.18"]
    listener.close()


def test_a_socket_that_cannot_be_removed_is_left_and_told(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    assert not BoundSocket(path=str(folder / "file" / "socket"), device=1, inode=1).unlink()
    assert "is left behind: Not a directory" in capfd.readouterr().out


def test_a_name_that_does_not_fit_with_its_suffix_is_refused_and_said(folder: Path) -> None:
    path = "./" + "x" * 104
    with pytest.raises(SocketError, match=r"x is too long: \d+ bytes .* at most 107"):
        listen_unix(path)


def test_a_name_with_a_percent_sign_is_taken_as_it_is(folder: Path) -> None:
    listener, _ = listen_unix("./so%41cket")
    assert names(".") == ["so%41cket"]
    listener.close()


@pytest.mark.parametrize("path", ["file/socket", "gone"], ids=["no directory", "a directory in its place"])
def test_a_place_that_cannot_be_used_is_an_error_that_names_it(folder: Path, path: str) -> None:
    Path("file").touch()
    Path("gone/x").mkdir(parents=True)
    with pytest.raises(SocketError, match=path):
        listen_unix(path)
