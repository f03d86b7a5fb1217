"""The cache: found or fetched, by every rule of checksum, tag and policy; shared, purged, checked at use."""

import fcntl
import gzip
import multiprocessing
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from pilot_agent.http import Deadline
from pilot_agent.wasm.cache import Cache, Wanted
from pilot_agent.wasm.errors import WasmError
from pilot_agent.wasm.guard import Guard
from pilot_agent.wasm.index import INDEX, LOCK, Contents, Index
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.web import Web
from tests.support.oci_registry import OciRegistry, tar_of
from tests.support.site import Site, answer, page
from tests.support.wasm import CacheRig, module

ONE, TWO = module("one"), module("two")


@pytest.fixture
def rig(tmp_path: Path) -> CacheRig:
    return CacheRig(tmp_path / "data")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        site.pages["/one.wasm"] = page(ONE)
        yield site


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with OciRegistry() as registry:
        yield registry


def soon() -> Deadline:
    return Deadline(20)


def checksum(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_a_module_is_fetched_once_and_lies_where_the_reference_has_it(rig: CacheRig, site: Site) -> None:
    url = f"{site.url}/one.wasm"
    path = rig.cache.get(Wanted(url=url), soon())
    assert rig.cache.get(Wanted(url=url), soon()) == path
    assert path == rig.directory / checksum(url.encode()) / f"{checksum(ONE)}.wasm"
    assert path.read_bytes() == ONE
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o644, 0o755]
    assert site.count("/one.wasm") == 1
    assert rig.lookups == (1, 2)  # a miss is looked up again when its checksum is known
    assert rig.fetches == {"success": 1}
    assert rig.cache.count() == 1
    assert rig.left_over() == []


def test_a_password_in_a_url_does_not_reach_the_disk(rig: CacheRig, site: Site) -> None:
    rig.cache.get(Wanted(url=f"http://me:hunter2@{site.authority}/one.wasm"), soon())
    assert "hunter2" not in (rig.directory / INDEX).read_text()


def test_modes_do_not_depend_on_the_umask(rig: CacheRig, site: Site) -> None:
    before = os.umask(0o077)
    try:
        path = rig.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon())
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o644, 0o755]


def test_a_given_checksum_is_compared_and_found_again_without_a_request(rig: CacheRig, site: Site) -> None:
    wanted = Wanted(url=f"{site.url}/one.wasm", checksum=checksum(ONE))
    assert rig.cache.get(wanted, soon()) == rig.cache.get(wanted, soon())
    assert len(site.asked) == 1
    wrong = Wanted(url=f"{site.url}/one.wasm", checksum=checksum(TWO))
    with pytest.raises(
        WasmError, match=f"has checksum {checksum(ONE)}, which does not match: {checksum(TWO)}"
    ):
        rig.cache.get(wrong, soon())
    assert rig.fetches == {"success": 1, "checksum_mismatched": 1}
    assert rig.left_over() == []


def test_the_same_bytes_from_another_url_are_another_module(rig: CacheRig, site: Site) -> None:
    site.pages["/other.wasm"] = page(ONE)
    paths = {
        rig.cache.get(Wanted(url=f"{site.url}/{name}.wasm", checksum=checksum(ONE)), soon())
        for name in ("one", "other")
    }
    assert len(paths) == rig.cache.count() == 2


@pytest.mark.parametrize(
    "body", [b"", b"\0as", b"\0asm\1\0\0", b"<html>not found</html>", b"MZ" + bytes(100)], ids=repr
)
def test_what_is_no_module_is_refused_and_not_kept(rig: CacheRig, site: Site, body: bytes) -> None:
    site.pages["/x"] = page(body)
    with pytest.raises(WasmError, match=f"fetched Wasm binary from {site.url}/x is invalid"):
        rig.cache.get(Wanted(url=f"{site.url}/x"), soon())
    assert rig.fetches == {"fetch_failure": 1}
    assert rig.cache.count() == 0
    assert rig.left_over() == []


@pytest.mark.parametrize("url", ["ftp://registry.test/x", "file:///etc/passwd", "registry.test/x", ""])
def test_other_schemes_are_refused(rig: CacheRig, url: str) -> None:
    with pytest.raises(WasmError, match="unsupported Wasm module downloading URL scheme"):
        rig.cache.get(Wanted(url=url), soon())


@pytest.mark.parametrize(
    ("policy", "version", "is_fetched_again"),
    [
        ("UNSPECIFIED_POLICY", "2", False),
        ("IfNotPresent", "2", False),
        ("Always", "1", False),
        ("Always", "2", True),
    ],
)
def test_over_http_a_new_resource_version_counts_for_always_alone(
    rig: CacheRig, site: Site, policy: str, version: str, is_fetched_again: bool
) -> None:
    wanted = {"url": f"{site.url}/one.wasm", "resource": "r", "policy": policy}
    rig.cache.get(Wanted(**wanted, version="1"), soon())  # type: ignore[arg-type]
    site.pages["/one.wasm"] = page(TWO)
    path = rig.cache.get(Wanted(**wanted, version=version), soon())  # type: ignore[arg-type]
    assert path.read_bytes() == (TWO if is_fetched_again else ONE)


@pytest.mark.parametrize(
    ("tag", "policy", "is_looked_at_again"),
    [
        ("latest", "UNSPECIFIED_POLICY", True),
        ("latest", "IfNotPresent", False),
        ("latest", "Always", True),
        ("v1", "UNSPECIFIED_POLICY", False),
        ("v1", "IfNotPresent", False),
        ("v1", "Always", True),
    ],
)
def test_a_tag_is_looked_at_again_as_the_policy_says(
    rig: CacheRig, registry: OciRegistry, tag: str, policy: str, is_looked_at_again: bool
) -> None:
    registry.push("a/b", tag, "compat", ONE)
    wanted = {"url": f"oci://{registry.authority}/a/b:{tag}", "resource": "r", "policy": policy}
    rig.cache.get(Wanted(**wanted, version="1"), soon())  # type: ignore[arg-type]
    registry.push("a/b", tag, "compat", TWO)
    assert rig.cache.get(Wanted(**wanted, version="1"), soon()).read_bytes() == ONE  # type: ignore[arg-type]
    second = rig.cache.get(Wanted(**wanted, version="2"), soon())  # type: ignore[arg-type]
    assert second.read_bytes() == (TWO if is_looked_at_again else ONE)


def test_a_version_is_known_to_the_resource_that_asked_for_it(rig: CacheRig, registry: OciRegistry) -> None:
    registry.push("a/b", "v1", "compat", ONE)
    wanted = Wanted(url=f"oci://{registry.authority}/a/b:v1", resource="r", version="1", policy="Always")
    rig.cache.get(wanted, soon())
    requests = len(registry.asked)
    rig.cache.get(wanted, soon())
    assert len(registry.asked) == requests
    other = Wanted(url=wanted.url, resource="other", version="1", policy="Always")
    rig.cache.get(other, soon())
    assert len(registry.asked) == requests + 1  # the manifest alone: the layer is there


def test_a_version_whose_fetch_failed_is_not_taken_for_known(rig: CacheRig, site: Site) -> None:
    def wanted(version: str) -> Wanted:
        return Wanted(url=f"{site.url}/one.wasm", resource="r", version=version, policy="Always")

    rig.cache.get(wanted("1"), soon())
    site.pages["/one.wasm"] = page(b"", 404)
    for _ in range(2):
        with pytest.raises(WasmError):
            rig.cache.get(wanted("2"), soon())


def test_a_checksum_pins_whatever_the_policy(rig: CacheRig, registry: OciRegistry) -> None:
    digest = registry.push("a/b", "latest", "compat", ONE).removeprefix("sha256:")
    for version in ("1", "2"):
        wanted = Wanted(
            url=f"oci://{registry.authority}/a/b:latest",
            checksum=digest,
            resource="r",
            version=version,
            policy="Always",
        )
        path = rig.cache.get(wanted, soon())
    assert path.name == f"{digest}.wasm"
    assert registry.count("/v2/a/b/manifests/latest") == 1


def test_a_digest_in_the_url_is_the_checksum(rig: CacheRig, registry: OciRegistry) -> None:
    digest = registry.push("a/b", "v1", "docker", ONE)
    url = f"oci://{registry.authority}/a/b@{digest}"
    path = rig.cache.get(Wanted(url=url), soon())
    assert path.name == f"{digest.removeprefix('sha256:')}.wasm"
    assert rig.cache.get(Wanted(url=f"oci://{registry.authority}/a/b:v1@{digest}"), soon()) == path
    assert rig.lookups == (1, 2)
    wrong = Wanted(url=url, checksum="0" * 64)
    with pytest.raises(
        WasmError, match=f"has checksum {digest.removeprefix('sha256:')}, which does not match: 0"
    ):
        rig.cache.get(wrong, soon())


def test_tags_of_one_image_share_the_module(rig: CacheRig, registry: OciRegistry) -> None:
    for tag in ("v1", "stable"):
        registry.push("a/b", tag, "compat", ONE)
    paths = {
        rig.cache.get(Wanted(url=f"oci://{registry.authority}/a/b:{tag}"), soon()) for tag in ("v1", "stable")
    }
    assert len(paths) == 1
    assert sum("/blobs/" in asked.path for asked in registry.asked) == 1


def test_a_module_survives_the_process_that_fetched_it(tmp_path: Path, site: Site) -> None:
    first, second = CacheRig(tmp_path), CacheRig(tmp_path)
    path = first.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon())
    assert second.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon()) == path
    assert second.lookups == (1, 0)


@pytest.mark.parametrize("harm", ["a byte", "the end", "all of it"])
def test_a_file_that_was_harmed_is_fetched_again(rig: CacheRig, site: Site, harm: str) -> None:
    wanted = Wanted(url=f"{site.url}/one.wasm", checksum=checksum(ONE))
    path = rig.cache.get(wanted, soon())
    if harm == "all of it":
        path.unlink()
    else:
        path.write_bytes(ONE[:-1] + (b"!" if harm == "a byte" else b""))
    assert rig.cache.get(wanted, soon()).read_bytes() == ONE
    assert site.count("/one.wasm") == 2
    path.write_bytes(b"evil")
    site.pages["/one.wasm"] = page(b"gone", 404)
    with pytest.raises(WasmError, match="status code 404"):
        rig.cache.get(wanted, soon())


def test_an_image_is_checked_against_its_own_bytes_too(rig: CacheRig, registry: OciRegistry) -> None:
    digest = registry.push("a/b", "v1", "compat", ONE)
    wanted = Wanted(url=f"oci://{registry.authority}/a/b@{digest}")
    rig.cache.get(wanted, soon()).write_bytes(TWO)
    assert rig.cache.get(wanted, soon()).read_bytes() == ONE


def test_what_was_not_used_for_the_expiry_is_purged_with_its_tags(rig: CacheRig, site: Site) -> None:
    site.pages["/two.wasm"] = page(TWO)
    old, used = (Wanted(url=f"{site.url}/{name}.wasm") for name in ("one", "two"))
    old_path, used_path = rig.cache.get(old, soon()), rig.cache.get(used, soon())
    rig.now_s += 80_000
    rig.cache.get(used, soon())
    rig.now_s += 10_000
    assert rig.cache.purge() == 1
    assert not old_path.parent.exists()
    assert used_path.is_file()
    assert set(Index(rig.directory).read().tags) == {checksum(used.url.encode())}
    rig.cache.get(old, soon())
    assert site.count("/one.wasm") == 2


def test_an_images_tag_goes_with_it(rig: CacheRig, registry: OciRegistry) -> None:
    registry.push("a/b", "v1", "compat", ONE)
    rig.cache.get(Wanted(url=f"oci://{registry.authority}/a/b:v1"), soon())
    rig.now_s += 90_000
    assert rig.cache.purge() == 0
    assert Index(rig.directory).read() == Contents()


def test_what_nobody_knows_is_purged_when_it_is_old(rig: CacheRig, site: Site) -> None:
    path = rig.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon())
    orphan, fresh = path.with_name("0" * 64 + ".wasm"), path.with_name("1" * 64 + ".wasm")
    foreign = rig.directory / "envoy.prof"
    for file in (orphan, fresh, foreign):
        file.write_bytes(b"x")
    for file in (orphan, foreign):
        os.utime(file, (rig.now_s - 100_000, rig.now_s - 100_000))
    os.utime(fresh, (rig.now_s - 100, rig.now_s - 100))
    rig.cache.purge()
    assert path.exists()
    assert fresh.exists()
    assert foreign.exists()
    assert not orphan.exists()


def test_what_a_killed_fetch_left_behind_is_removed_and_what_a_living_one_needs_is_not(
    rig: CacheRig, site: Site
) -> None:
    killed, living, young, old = (rig.directory / f".wasm-incoming-{name}" for name in "abcd")
    for folder in (killed, living, young, old):
        folder.mkdir(parents=True)
    for folder in (killed, living):
        (folder / "lock").touch()
        (folder / "module").write_bytes(b"x" * 1000)
    os.utime(old, (0, 0))
    with (living / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rig.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon())
        assert rig.left_over() == sorted([living, young])
    rig.cache.purge()
    assert rig.left_over() == [young]


def test_what_envoy_was_given_last_counts_as_used(rig: CacheRig, site: Site) -> None:
    site.pages["/two.wasm"] = page(TWO)
    one, two = (rig.cache.get(Wanted(url=f"{site.url}/{name}.wasm"), soon()) for name in ("one", "two"))
    rig.now_s += 90_000
    assert rig.cache.purge([str(one)]) == 1
    assert (one.exists(), two.exists()) == (True, False)
    rig.now_s += 80_000
    assert rig.cache.purge() == 1


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"[]", b'{"format":99}', b"\xff" * 100, b'{"modules":3}']
)
def test_an_index_that_cannot_be_read_is_an_empty_one(rig: CacheRig, site: Site, content: bytes) -> None:
    rig.directory.mkdir()
    (rig.directory / INDEX).write_bytes(content)
    wanted = Wanted(url=f"{site.url}/one.wasm")
    assert rig.cache.get(wanted, soon()).read_bytes() == ONE
    assert rig.cache.get(wanted, soon()).read_bytes() == ONE
    assert site.count("/one.wasm") == 1


def test_a_lock_that_is_never_given_back_costs_the_index_and_not_the_module(
    tmp_path: Path, site: Site
) -> None:
    rig = CacheRig(tmp_path)
    rig.cache._index._lock_within_s = 0.05
    with (tmp_path / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert rig.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon()).read_bytes() == ONE
    assert rig.cache.count() == 0


def _fetch_all(directory: str, urls: list[str], rounds: int) -> None:
    cache = Cache(WasmOptions(directory=directory), Web(Guard()), Tally())
    for _ in range(rounds):
        for url in urls:
            assert cache.get(Wanted(url=url), Deadline(30)).read_bytes().startswith(b"\0asm")
        cache.purge()


def test_two_agents_share_a_directory(tmp_path: Path) -> None:
    with Site() as site:
        for number in range(8):
            site.pages[f"/{number}"] = page(module(str(number) * 1000))
        urls = [f"{site.url}/{number}" for number in range(8)]
        spawn = multiprocessing.get_context("spawn")
        agents = [
            spawn.Process(target=_fetch_all, args=(str(tmp_path), order, 5)) for order in (urls, urls[::-1])
        ]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join(60)
        assert [agent.exitcode for agent in agents] == [0, 0]
        assert CacheRig(tmp_path).cache.count() == 8
        assert all(1 <= site.count(f"/{number}") <= 2 for number in range(8))


@contextmanager
def tiny_disk(path: Path, size_kib: int) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
def test_a_full_disk_is_said_nothing_is_left_and_what_is_there_goes_on(tmp_path: Path, site: Site) -> None:
    site.pages["/big.wasm"] = page(module("x" * 400_000))
    with tiny_disk(tmp_path / "disk", 128) as disk:
        rig = CacheRig(disk)
        wanted = Wanted(url=f"{site.url}/one.wasm")
        rig.cache.get(wanted, soon())
        with pytest.raises(WasmError, match=r"cannot be kept in .*No space left on device"):
            rig.cache.get(Wanted(url=f"{site.url}/big.wasm"), soon())
        assert rig.left_over() == []
        assert rig.cache.get(wanted, soon()).read_bytes() == ONE
        assert rig.cache.count() == 1


def test_an_index_that_cannot_be_written_costs_another_fetch_and_nothing_else(
    rig: CacheRig, site: Site
) -> None:
    (rig.directory / INDEX).mkdir(parents=True)
    for _ in range(2):
        assert rig.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon()).read_bytes() == ONE
    assert site.count("/one.wasm") == 2
    assert rig.left_over() == []


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path, site: Site) -> None:
    (tmp_path / "file").write_bytes(b"")
    rig = CacheRig(tmp_path / "file" / "data")
    with pytest.raises(WasmError, match=r"cannot be kept in .*/file/data"):
        rig.cache.get(Wanted(url=f"{site.url}/one.wasm"), soon())


@pytest.mark.parametrize(
    "wrapped",
    [
        tar_of(plugin_wasm=ONE),
        gzip.compress(ONE),
        gzip.compress(tar_of(any_name=ONE)),
        gzip.compress(gzip.compress(tar_of(a__b=ONE))),
    ],
    ids=["tar", "gzip", "tar.gz", "tar.gz.gz"],
)
def test_a_packed_module_is_unpacked_and_its_checksum_is_of_the_module(
    rig: CacheRig, site: Site, wrapped: bytes
) -> None:
    site.pages["/x"] = lambda _: answer(wrapped)
    path = rig.cache.get(Wanted(url=f"{site.url}/x", checksum=checksum(ONE)), soon())
    assert path.read_bytes() == ONE
