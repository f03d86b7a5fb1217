"""The files: who may read them, what survives a kill, what is given up and said."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilot_agent.xds.known_good import files
from pilot_agent.xds.known_good.keeper import Accepted, Forget, Retain
from pilot_agent.xds.known_good.records import StoreError
from pilot_agent.xds.known_good.store import Store
from tests.support.waiting import wait_for
from tests.support.xds_messages import CDS, EDS, response

NODE = ("sidecar~10.0.0.1~a.b~c", "istiod:15012", "Kubernetes")
Make = Callable[..., Store]


class Workers:
    """Compacts at once, in this process; or later, when the test says so."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.is_held_back = self.fails = False
        self.asked: list[tuple[str, bytes]] = []

    def __call__(self, key: str, request: bytes) -> None:
        self.asked.append((key, request))
        if not self.is_held_back:
            self.finish()

    def finish(self) -> None:
        assert self.store is not None
        key, request = self.asked[-1]
        try:
            self.store.compacted(key, None if self.fails else files.compact(request))
        except StoreError:  # as in the runtime: a worker's failure is a result
            self.store.compacted(key, None)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "var/lib/istio/data/xds-last-known-good"


@pytest.fixture
def make(directory: Path, workers: Workers) -> Make:
    def start(**changes: Any) -> Store:
        settings: dict[str, Any] = {"identity": NODE, "variant": "delta", "limit_bytes": 1 << 20}
        workers.store = Store(directory, compact=workers, gauge=lambda *_: None, **(settings | changes))
        return workers.store

    return start


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: "".join(capfd.readouterr())


def accepted(type_url: str = CDS, *, afresh: bool = False, size: int = 1, **resources: str) -> Accepted:
    """Accept resources name=version, each of `size` bytes."""
    message = response("delta", type_url, "n", "v")
    for name, version in resources.items():
        message.MergeFrom(response("delta", type_url, "n", version, **{name: version.encode() * size}))
    return Accepted(type_url, message.SerializeToString(), afresh=afresh)


def versions(store: Store, type_url: str = CDS) -> dict[str, str]:
    assert store.flush(10)
    content = store.content(type_url)
    return {} if content is None else {n.decode(): r.version.decode() for n, r in content.resources.items()}


def test_what_was_accepted_is_there_for_the_next_life(make: Make) -> None:
    store = make()
    store.submit(
        [accepted(afresh=True, a="1", b="1"), accepted(b="2", c="2"), Retain(CDS, {b"b": b"", b"c": b"9"})]
    )
    store.submit([accepted(EDS, afresh=True, e="1")])
    assert versions(store) == {"b": "2"}
    assert versions(make()) == {"b": "2"}
    assert versions(make(), EDS) == {"e": "1"}


def test_it_is_written_when_nothing_passes_any_more(make: Make, directory: Path) -> None:
    store = make()
    store.stir()
    store.submit([accepted(afresh=True, a="1")])
    wait_for(lambda: any(directory.iterdir()), what="the file")


def test_nothing_is_written_while_messages_pass_and_all_of_it_when_asked_for(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot_agent.xds.known_good.store._QUIET_S", 60.0)
    monkeypatch.setattr("pilot_agent.xds.known_good.store._LATEST_S", 60.0)
    store = make()
    for version in "123":
        store.stir()
        store.submit([accepted(afresh=True, a=version)])
        assert not directory.exists()
    assert versions(store) == {"a": "3"}


def test_what_is_read_is_what_was_accepted_before(make: Make) -> None:
    store = make()
    store.stir()
    store.submit([accepted(afresh=True, a="1")])
    content = store.content(CDS)
    assert content is not None
    assert content.resources[b"a"].version == b"1"


def test_messages_that_pass_for_ever_do_not_keep_it_from_the_disk(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot_agent.xds.known_good.store._LATEST_S", 0.2)
    store = make()
    store.submit([accepted(afresh=True, a="1")])

    def is_written_while_messages_pass() -> bool:
        store.stir()
        return any(directory.iterdir())

    wait_for(is_written_while_messages_pass, what="the file")


def test_much_that_waits_is_written_at_once(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilot_agent.xds.known_good.store._MOST_WAITING_BYTES", 100)
    monkeypatch.setattr("pilot_agent.xds.known_good.store._QUIET_S", 60.0)
    monkeypatch.setattr("pilot_agent.xds.known_good.store._LATEST_S", 60.0)
    store = make()
    store.stir()
    store.submit([accepted(afresh=True, size=1000, a="1")])
    wait_for(lambda: any(directory.iterdir()), what="the file")


def test_the_files_are_the_owners_alone(make: Make, directory: Path) -> None:
    store = make()
    store.submit([accepted(afresh=True, a="1")])
    assert store.flush(10)
    (file,) = directory.iterdir()
    assert file.name == "envoy.config.cluster.v3.Cluster.xlkg"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "other",
    [{"identity": ("sidecar~10.0.0.2~a.b~c", *NODE[1:])}, {"variant": "sotw"}],
    ids=["another node", "another variant"],
)
def test_somebody_elses_file_is_ignored_with_a_warning_and_then_replaced(
    make: Make, other: dict[str, Any], said: Callable[[], str]
) -> None:
    store = make()
    store.submit([accepted(afresh=True, a="1")])
    assert store.flush(10)
    stranger = make(**other)
    assert stranger.content(CDS) is None
    assert "last known good configuration: CDS ignored: it is another's" in said()
    stranger.submit([accepted(b="2")])  # a part, and nothing to add it to
    assert stranger.flush(10)
    assert versions(make()) == {"a": "1"}
    stranger.submit([accepted(afresh=True, b="2")])
    assert stranger.flush(10)
    assert make().content(CDS) is None


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"garbage" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
        lambda path: path.chmod(0o666),
        lambda path: (path.rename(path.with_name("aside")), path.symlink_to("aside")),
        make_fifo,
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["empty", "garbage", "a changed byte", "others may write", "a link", "a pipe", "a directory"],
)
def test_a_file_that_cannot_be_trusted_is_ignored_with_a_warning(
    make: Make, directory: Path, damage: Callable[[Path], object], said: Callable[[], str]
) -> None:
    store = make()
    store.submit([accepted(afresh=True, a="1")])
    assert store.flush(10)
    damage(directory / files.file_name(CDS))
    assert make().content(CDS) is None
    assert "last known good configuration: CDS ignored: " in said()


def test_a_torn_append_is_left_out_and_appended_over(make: Make, directory: Path) -> None:
    store = make()
    store.submit([accepted(afresh=True, a="1")])
    assert store.flush(10)
    path = directory / files.file_name(CDS)
    whole = path.read_bytes()
    store.submit([accepted(b="1")])
    assert store.flush(10)
    path.write_bytes(path.read_bytes()[:-3])
    again = make()
    assert versions(again) == {"a": "1"}
    again.submit([accepted(c="1")])
    assert versions(again) == {"a": "1", "c": "1"}
    assert path.read_bytes().startswith(whole)


def test_outdated_records_are_compacted_by_a_worker_and_what_comes_meanwhile_is_kept(
    make: Make, directory: Path, workers: Workers
) -> None:
    store = make(limit_bytes=8 << 20)
    workers.is_held_back = True
    store.submit([accepted(afresh=True, a="1", gone="1")])
    for number in range(2, 9):
        store.submit([accepted(size=200_000, a=str(number))])
    assert store.flush(10)
    wait_for(lambda: workers.asked, what="the worker")
    store.submit([Retain(CDS, {b"a": b""}), accepted(meanwhile="1")])
    assert store.flush(10)
    before = (directory / files.file_name(CDS)).stat().st_size
    workers.finish()
    assert versions(store) == {"a": "8", "meanwhile": "1"}
    assert (directory / files.file_name(CDS)).stat().st_size < before / 2
    store.submit([accepted(later="1")])
    assert store.flush(10)
    assert versions(make()) == {"a": "8", "meanwhile": "1", "later": "1"}
    assert [path.suffix for path in directory.iterdir()] == [files.SUFFIX]


def test_a_compaction_that_was_overtaken_or_failed_changes_nothing(make: Make, workers: Workers) -> None:
    store = make(limit_bytes=8 << 20)
    workers.is_held_back = True
    store.submit([accepted(afresh=True, a="1"), accepted(size=2_000_000, b="1")])
    assert store.flush(10)
    wait_for(lambda: workers.asked, what="the worker")
    store.submit([accepted(afresh=True, new="1")])
    assert store.flush(10)
    workers.finish()
    assert versions(store) == {"new": "1"}

    workers.fails = True
    workers.is_held_back = False
    store.submit([accepted(size=2_000_000, b="2")])
    assert versions(store) == {"new": "1", "b": "2"}


def test_what_is_more_than_the_limit_is_not_kept_at_all_and_that_is_said(
    make: Make, directory: Path, said: Callable[[], str]
) -> None:
    store = make(limit_bytes=100_000)
    store.submit([accepted(EDS, afresh=True, e="1"), accepted(afresh=True, size=60_000, a="1")])
    assert set(versions(store)) == {"a"}
    store.submit([accepted(size=99_000, b="1")])
    store.submit([accepted(size=99_000, c="1")])
    assert store.flush(10)
    wait_for(lambda: store.content(CDS) is None or (store.flush(10) and None), what="CDS given up")
    assert "last known good configuration: CDS not kept: " in said()
    assert versions(store, EDS) == {"e": "1"}
    assert [path.name for path in directory.iterdir()] == [files.file_name(EDS)]


def test_a_disk_that_cannot_be_written_is_warned_about_once_and_nothing_fails(
    make: Make, directory: Path, said: Callable[[], str]
) -> None:
    directory.parent.mkdir(parents=True)
    directory.write_text("a file where the directory should be")
    store = make()
    for _ in range(3):
        store.submit([accepted(afresh=True, a="1")])
    assert store.flush(10)
    assert store.content(CDS) is None
    assert said().count("CDS not kept") == 1


def test_a_disk_that_is_slow_costs_the_type_and_no_memory(make: Make) -> None:
    store = make(limit_bytes=1000)
    store._run = lambda: None  # type: ignore[method-assign]  # a writer that never comes round
    for _ in range(100):
        store.submit([accepted(afresh=True, size=500, a="1")])
    waiting = [store._queue.get() for _ in range(100)]
    assert len([each for each in waiting if isinstance(each, Accepted)]) == 1
    assert len([each for each in waiting if isinstance(each, Forget)]) == 99


def test_forgetting_removes_the_file_and_a_fresh_beginning_brings_it_back(
    make: Make, directory: Path
) -> None:
    store = make()
    store.submit([accepted(afresh=True, a="1"), Forget(CDS, "a secret"), accepted(b="1")])
    assert versions(store) == {}
    assert not list(directory.iterdir())
    store.submit([accepted(afresh=True, c="1")])
    assert versions(store) == {"c": "1"}


def test_a_module_that_carries_a_pull_secret_makes_its_type_forgotten(make: Make, directory: Path) -> None:
    store = make()
    secret = response("delta", CDS, "2", b=b"ISTIO_META_WASM_IMAGE_PULL_SECRET=hunter2").SerializeToString()
    store.submit([accepted(afresh=True, a="1"), Accepted(CDS, secret, afresh=False), accepted(c="1")])
    assert versions(store) == {}
    store.submit([Accepted(CDS, secret, afresh=True)])
    assert versions(store) == {}
    assert store.flush(10)
    assert not list(directory.iterdir())
    store.submit([accepted(afresh=True, d="1")])
    assert versions(store) == {"d": "1"}


def test_the_age_is_that_of_the_newest_file(make: Make, directory: Path) -> None:
    store = make()
    assert store.age_s() is None
    store.submit([accepted(afresh=True, a="1"), accepted(EDS, afresh=True, e="1")])
    assert store.flush(10)
    os.utime(directory / files.file_name(EDS), (time.time() - 1000, time.time() - 1000))
    os.utime(directory / files.file_name(CDS), (time.time() - 100, time.time() - 100))
    age_s = store.age_s()
    assert age_s is not None
    assert 99 < age_s < 200


@pytest.mark.parametrize("type_url", ["", "istio.io/x", "type.googleapis.com/envoy./../../etc", "envoy.x"])
def test_a_type_url_that_makes_no_file_name_is_not_kept(make: Make, directory: Path, type_url: str) -> None:
    store = make()
    store.submit([accepted(type_url, afresh=True, a="1")])
    assert store.flush(10)
    assert store.content(type_url) is None
    assert not directory.exists() or not list(directory.iterdir())
