import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from pilot_agent.sockets import SocketError, bind_unix


def identity(data: bytes) -> bytes:
    return data


def names(directory: str) -> list[str]:
    return sorted(entry.name for entry in Path(directory).iterdir())


def new_server(answer: bytes = b"") -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(lambda request, _context: answer + request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),))
    return server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # socket names are short, and relative as in the agent
    return tmp_path


def ask(path: str) -> bytes:
    with grpc.insecure_channel(f"unix:{path}") as channel:
        result: bytes = channel.unary_unary("/test.Echo/Echo", identity, identity)(
            b"x", timeout=5.0, wait_for_ready=True
        )
        return result


def test_a_client_reaches_the_server_under_the_final_name_with_mode_and_directory_as_asked(
    folder: Path,
) -> None:
    server = new_server()
    bound = bind_unix(server, "./a/b/socket")
    server.start()
    try:
        assert ask("./a/b/socket") == b"x"
        assert stat.S_IMODE(Path("a/b/socket").stat().st_mode) == 0o666
        assert {stat.S_IMODE(Path(made).stat().st_mode) & ~0o750 for made in ("a", "a/b")} == {0}
        assert names("a/b") == ["socket"]
    finally:
        server.stop(None).wait()
    assert bound.unlink()
    assert not bound.unlink()


def test_an_old_server_that_ends_leaves_its_successors_socket_alone(folder: Path) -> None:
    old, new = new_server(b"old "), new_server(b"new ")
    bound_old = bind_unix(old, "./socket")
    old.start()
    assert ask("./socket") == b"old x"
    bind_unix(new, "./socket")
    new.start()

    old.stop(None).wait()
    assert not bound_old.unlink()

    assert ask("./socket") == b"new x"
    new.stop(None).wait()


def test_sockets_that_killed_servers_left_behind_are_removed_and_other_files_are_not(folder: Path) -> None:
    for name in ("socket.17", "socket", "other.17"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(name)
    Path("socket.18").write_text("no socket")
    server = new_server()

    bind_unix(server, "socket")

    assert names(".") == ["other.17", "socket", "socket.18"]
    server.stop(None).wait()


def test_a_name_that_does_not_fit_with_its_suffix_is_refused_and_said(folder: Path) -> None:
    path = "./" + "x" * 104
    with pytest.raises(SocketError, match=r"x is too long: \d+ bytes .* at most 107"):
        bind_unix(new_server(), path)


def test_a_name_with_a_percent_sign_is_taken_as_it_is(folder: Path) -> None:
    server = new_server()
    bind_unix(server, "./so%41cket")
    assert names(".") == ["so%41cket"]
    server.stop(None).wait()


@pytest.mark.parametrize("path", ["file/socket", "gone"], ids=["no directory", "a directory in its place"])
def test_a_place_that_cannot_be_used_is_an_error_that_names_it(folder: Path, path: str) -> None:
    Path("file").touch()
    Path("gone/x").mkdir(parents=True)
    with pytest.raises(SocketError, match=path):
        bind_unix(new_server(), path)
