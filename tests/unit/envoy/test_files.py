"""Files around Envoy: the bootstrap, and what a hot restart leaves behind."""

import os
import socket
import stat
from pathlib import Path

import pytest

from pilot_agent.envoy import bootstrap_file
from pilot_agent.envoy.bootstrap_file import Owner
from pilot_agent.envoy.shared_files import SharedFiles


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # socket names are short, and relative as in the agent
    return tmp_path


@pytest.fixture
def shared(folder: Path) -> SharedFiles:
    (folder / "shm").mkdir()
    (folder / "proxy").mkdir()
    return SharedFiles("proxy", shared_memory="shm")


def names(directory: str) -> list[str]:
    return sorted(entry.name for entry in Path(directory).iterdir())


def leave_files(base_id: int, *epochs: int) -> list[Path]:
    """Make what an Envoy leaves; its sockets have no reader any more."""
    made = [Path("shm") / f"envoy_shared_memory_{base_id}0"]
    made[0].touch()
    for epoch in epochs:
        for kind in ("parent", "child", "udp_parent", "udp_child"):
            path = Path("proxy") / f"hr_{kind}_{base_id}{epoch}"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
                left.bind(str(path))
            made.append(path)
    return made


# The bootstrap file


@pytest.mark.parametrize(
    ("generation", "suffix", "path"),
    [
        (None, "json", "etc/istio/proxy/envoy-rev.json"),
        (0, "json", "etc/istio/proxy/envoy-rev0.json"),
        (12, "yaml", "etc/istio/proxy/envoy-rev12.yaml"),
    ],
)
def test_the_name_of_a_bootstrap(generation: int | None, suffix: str, path: str) -> None:
    assert bootstrap_file.path_for("./etc/istio/proxy", generation, suffix=suffix) == path


def test_a_bootstrap_is_written_whole_with_mode_0600_and_its_directory_made(folder: Path) -> None:
    umask = os.umask(0)
    try:
        bootstrap_file.write("a/b/envoy-rev.json", b"{}", Owner())
    finally:
        os.umask(umask)
    assert Path("a/b/envoy-rev.json").read_bytes() == b"{}"
    assert stat.S_IMODE(Path("a/b/envoy-rev.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("a/b").stat().st_mode) == 0o700
    assert names("a/b") == ["envoy-rev.json"]


def test_a_bootstrap_that_was_readable_for_all_is_not_any_more(folder: Path) -> None:
    Path("envoy-rev.json").write_text("old")
    Path("envoy-rev.json").chmod(0o644)
    bootstrap_file.write("envoy-rev.json", b"new", Owner())
    assert stat.S_IMODE(Path("envoy-rev.json").stat().st_mode) == 0o600


def test_a_link_of_another_agent_is_replaced_and_not_written_through(folder: Path) -> None:
    Path("target").write_text("kept")
    Path("envoy-rev.json").symlink_to("target")
    bootstrap_file.write("envoy-rev.json", b"new", Owner())
    assert Path("target").read_text() == "kept"
    assert Path("envoy-rev.json").read_bytes() == b"new"
    assert not Path("envoy-rev.json").is_symlink()


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_bootstrap_belongs_to_envoy_s_user(folder: Path) -> None:
    bootstrap_file.write("proxy/envoy-rev.json", b"{}", Owner(uid=1337, gid=1337))
    for made in ("proxy", "proxy/envoy-rev.json"):
        assert (Path(made).stat().st_uid, Path(made).stat().st_gid) == (1337, 1337)


def test_a_failed_write_leaves_nothing_behind(folder: Path) -> None:
    Path("proxy/envoy-rev.json").mkdir(parents=True)
    with pytest.raises(OSError, match=r"envoy-rev\.json"):
        bootstrap_file.write("proxy/envoy-rev.json", b"{}", Owner())
    assert names("proxy") == ["envoy-rev.json"]


def test_the_plain_name_links_to_the_newest_and_goes_with_it(folder: Path) -> None:
    for name in ("envoy-rev0.json", "envoy-rev1.json"):
        Path(name).touch()
        bootstrap_file.point_newest("envoy-rev.json", name)
    assert Path("envoy-rev.json").readlink() == Path("envoy-rev1.json")
    bootstrap_file.remove("envoy-rev0.json", "envoy-rev.json")
    assert names(".") == ["envoy-rev.json", "envoy-rev1.json"]
    bootstrap_file.remove("envoy-rev1.json", "envoy-rev.json")
    assert names(".") == []
    bootstrap_file.remove("envoy-rev1.json", "envoy-rev.json")  # gone already: no error


def test_numbered_files_and_drafts_of_an_earlier_agent_are_removed_and_nothing_else(folder: Path) -> None:
    kept = ["envoy-rev.json", "envoy-revised.json", "grpc-bootstrap.json"]
    drafts = [".envoy-rev0.json.17", ".envoy-rev.json.17", ".hr-base-ids.17", ".pilot-agent-17"]
    for name in (*kept, *drafts, "envoy-rev0.json", "envoy-rev17.json", "envoy-rev3.yaml"):
        Path(name).touch()
    bootstrap_file.remove_stale(".")
    assert names(".") == sorted(kept)


# Hot restart's files


def test_a_drawn_base_id_is_recorded_and_small_enough_for_envoy_s_names(shared: SharedFiles) -> None:
    drawn = [shared.draw_base_id() for _ in range(20)]
    assert len(set(drawn)) == 20
    assert all(0 < each * 10 + 9 < 2**31 for each in drawn)
    assert Path("proxy/hr-base-ids").read_text().split() == [str(each) for each in drawn]


def test_the_files_of_a_base_id_and_its_record_are_removed(shared: SharedFiles) -> None:
    base_id = shared.draw_base_id()
    leave_files(base_id, 0, 1, 2)
    foreign = leave_files(77, 0)
    shared.remove(base_id)
    assert names("proxy") == sorted(path.name for path in foreign[1:])
    assert names("shm") == ["envoy_shared_memory_770"]


def test_dead_base_ids_of_our_record_are_cleared_and_nobody_else_s(shared: SharedFiles) -> None:
    dead, alive, kept = shared.draw_base_id(), shared.draw_base_id(), shared.draw_base_id()
    leave_files(dead, 0, 1)
    leave_files(alive, 0)
    leave_files(kept, 0)
    leave_files(99, 0)
    Path(f"proxy/hr_parent_{alive}1").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as envoy:
        envoy.bind(f"proxy/hr_parent_{alive}1")
        assert SharedFiles("proxy", shared_memory="shm").remove_dead(keep=frozenset({kept})) == (dead,)
    assert names("shm") == sorted(f"envoy_shared_memory_{each}0" for each in (alive, kept, 99))


@pytest.mark.parametrize("text", ["", "../../etc\n-1\nx\n99999999999999\n", "\xff\xfe"])
def test_a_record_that_is_no_list_of_base_ids_clears_nothing(shared: SharedFiles, text: str) -> None:
    Path("proxy/hr-base-ids").write_text(text, encoding="latin-1")
    leave_files(42, 0)
    assert shared.remove_dead() == ()
    assert names("shm") == ["envoy_shared_memory_420"]


def test_nothing_speaks_against_hot_restart_where_both_places_can_be_written(shared: SharedFiles) -> None:
    assert shared.obstacle() == ""
    assert names("shm") == []
    assert names("proxy") == []


def test_missing_shared_memory_speaks_against_hot_restart(folder: Path) -> None:
    obstacle = SharedFiles("proxy", shared_memory="no-such-shm").obstacle()
    assert obstacle == "no-such-shm is not writable: No such file or directory"


def test_a_long_directory_speaks_against_hot_restart(folder: Path) -> None:
    long = "x" * 100
    obstacle = SharedFiles(long, shared_memory=".").obstacle()
    assert "is longer than 107 bytes" in obstacle


@pytest.mark.skipif(os.getuid() != 0, reason="only a root agent gives Envoy another user")
@pytest.mark.parametrize(("mode", "ok"), [(0o700, False), (0o750, False), (0o777, True)])
def test_a_directory_that_envoy_s_user_cannot_write_speaks_against_hot_restart(
    folder: Path, mode: int, ok: bool
) -> None:
    Path("proxy").mkdir()
    Path("proxy").chmod(mode)
    obstacle = SharedFiles("proxy", owner=Owner(uid=1337, gid=1337), shared_memory=".").obstacle()
    assert obstacle == ("" if ok else "proxy is not writable for uid 1337")
