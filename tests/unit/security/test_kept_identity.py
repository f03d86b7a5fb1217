"""The identity that outlives its container: in memory only, for one identity, of one user, while valid."""

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pilot_agent.security.kept_identity import IdentityFile, Kept, NotKeptError
from pilot_agent.security.workload import Workload
from tests.support.small_ca import Authority

ID = "spiffe://cluster.local/ns/default/sa/reviews"
NOW_S = time.time()
TMPFS = Path("/dev/shm")
needs_tmpfs = pytest.mark.skipif(not os.access(TMPFS, os.W_OK), reason="/dev/shm is not writable")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=TMPFS) as made:
        yield Path(made)


def kept(lifetime_s: float = 3600.0) -> Kept:
    key, chain = Authority().workload_pair(ID, lifetime_s)
    workload = Workload(
        key_pem=key,
        chain_pem=chain,
        root_pem=chain,
        created_s=NOW_S,
        not_after_s=NOW_S + lifetime_s,
        serial_number="1",
        rotate_at_s=NOW_S + lifetime_s / 2,
        version_info="x/1",
    )
    return Kept(spiffe_id=ID, workload=workload, trust_bundle=("a",), last_version=3)


@needs_tmpfs
def test_what_was_kept_comes_back_and_nobody_else_may_read_it(folder: Path) -> None:
    file, saved = IdentityFile(str(folder)), kept()
    file.save(kept())
    file.save(saved)
    assert file.load(spiffe_id=ID, now_s=NOW_S) == saved
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [each.name for each in folder.iterdir()] == ["identity.kept"]
    file.remove()
    file.remove()
    assert list(folder.iterdir()) == []


def test_on_a_disk_nothing_is_written_and_nothing_is_used(tmp_path: Path) -> None:
    file = IdentityFile(str(tmp_path / "etc"))
    with pytest.raises(NotKeptError, match=r"file system type got=0x[0-9a-f]+ expected=tmpfs"):
        file.save(kept())
    assert list((tmp_path / "etc").iterdir()) == []
    file.path.write_bytes(b"anything")
    file.path.chmod(0o600)
    with pytest.raises(NotKeptError, match="expected=tmpfs"):
        file.load(spiffe_id=ID, now_s=NOW_S)


@needs_tmpfs
def test_past_its_end_it_is_not_used_but_stays_since_the_clock_may_be_wrong(folder: Path) -> None:
    file, saved = IdentityFile(str(folder)), kept(600.0)
    file.save(saved)
    with pytest.raises(NotKeptError, match=r"expired [0-9]+ s ago"):
        file.load(spiffe_id=ID, now_s=NOW_S + 2000)
    assert file.load(spiffe_id=ID, now_s=NOW_S) == saved


@needs_tmpfs
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "of another version"),
        (b"pilot-agent identity 1\n", "damaged"),
        (b"pilot-agent identity 1\n0000garbage", "damaged"),
    ],
    ids=["empty", "cut", "garbage"],
)
def test_what_is_damaged_is_removed(folder: Path, data: bytes, why: str) -> None:
    file = IdentityFile(str(folder))
    file.path.write_bytes(data)
    file.path.chmod(0o600)
    with pytest.raises(NotKeptError, match=why):
        file.load(spiffe_id=ID, now_s=NOW_S)
    assert not file.path.exists()


@needs_tmpfs
def test_another_identity_s_file_is_removed_and_a_flipped_bit_is_seen(folder: Path) -> None:
    file = IdentityFile(str(folder))
    file.save(replace(kept(), spiffe_id="spiffe://cluster.local/ns/default/sa/other"))
    with pytest.raises(NotKeptError, match=r"identity got=.*other expected=.*reviews"):
        file.load(spiffe_id=ID, now_s=NOW_S)
    file.save(kept())
    data = bytearray(file.path.read_bytes())
    data[200] ^= 1
    file.path.write_bytes(data)
    with pytest.raises(NotKeptError, match="damaged"):
        file.load(spiffe_id=ID, now_s=NOW_S)


@needs_tmpfs
def test_a_file_that_others_could_read_a_link_and_a_directory_are_not_used(folder: Path) -> None:
    file = IdentityFile(str(folder))
    file.save(kept())
    file.path.chmod(0o640)
    with pytest.raises(NotKeptError, match="mode got=640 expected=600"):
        file.load(spiffe_id=ID, now_s=NOW_S)
    file.path.rename(folder / "elsewhere")
    file.path.symlink_to(folder / "elsewhere")
    with pytest.raises(NotKeptError, match="symbolic links"):
        file.load(spiffe_id=ID, now_s=NOW_S)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(NotKeptError, match="no file that this agent writes"):
        file.load(spiffe_id=ID, now_s=NOW_S)
    with pytest.raises(NotKeptError, match="directory"):
        file.save(kept())
    assert "PRIVATE KEY" not in repr(kept())
