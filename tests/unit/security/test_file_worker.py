import ssl
import threading
from pathlib import Path

import pytest

from pilot_agent.security.errors import FileError
from pilot_agent.security.file_worker import read_files
from pilot_agent.security.pem import blocks
from pilot_agent.security.work import FilesRead, FilesRequest, encode, result
from tests.support.small_ca import Authority

ID = "spiffe://cluster.local/ns/default/sa/reviews"


def read(folder: Path, *, limit_s: float = 0.0, roots: bool = False) -> FilesRead:
    paths = {"root_path": str(folder / "root.pem")}
    if not roots:
        paths = {"cert_path": str(folder / "cert.pem"), "key_path": str(folder / "key.pem")}
    return result(read_files(encode(FilesRequest(first_wait_s=0.01, limit_s=limit_s, **paths))), FilesRead)


def write_pair(folder: Path, key: str, chain: str) -> None:
    (folder / "key.pem").write_text(key)
    (folder / "cert.pem").write_text(chain)


def test_a_pair_that_belongs_together_is_read_with_its_end(tmp_path: Path) -> None:
    key, chain = Authority().workload_pair(ID)
    write_pair(tmp_path, key, chain)
    found = read(tmp_path)
    assert (found.key_pem, found.chain_pem) == (key, chain)
    assert found.not_after_unix_s > 0
    assert "PRIVATE" not in repr(found)


def test_a_pair_that_does_not_belong_together_is_an_error_after_the_limit(tmp_path: Path) -> None:
    authority = Authority()
    key, _ = authority.workload_pair(ID)
    write_pair(tmp_path, key, authority.workload_pair(ID)[1])
    with pytest.raises(
        FileError, match=r"context deadline exceeded with last error: .*key.pem does not belong to"
    ):
        read(tmp_path, limit_s=0.05)


def test_a_certificate_with_a_key_of_an_unknown_curve_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    key, chain = Authority().workload_pair(ID)
    leaf = ssl.PEM_cert_to_DER_cert(blocks(chain)[0])
    p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce23030107")
    assert p256 in leaf
    write_pair(tmp_path, key, ssl.DER_cert_to_PEM_cert(leaf.replace(p256, unknown)))
    with pytest.raises(FileError, match=r"cert\.pem: a key that is not understood"):
        read(tmp_path)


def test_a_key_that_follows_its_certificate_is_waited_for(tmp_path: Path) -> None:
    authority = Authority()
    old, (key, chain) = authority.workload_pair(ID), authority.workload_pair(ID)
    write_pair(tmp_path, old[0], chain)
    later = threading.Timer(0.05, write_pair, (tmp_path, key, chain))
    later.start()
    assert read(tmp_path, limit_s=5.0).key_pem == key
    later.join()


def test_of_a_root_file_the_certificates_are_kept(tmp_path: Path) -> None:
    root = Authority().root_pem
    (tmp_path / "root.pem").write_text(
        f"# ours\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{root}"
    )
    assert read(tmp_path, roots=True).root_pem == root
    (tmp_path / "root.pem").write_text("nothing")
    with pytest.raises(FileError, match="no valid certificate"):
        read(tmp_path, roots=True)
    with pytest.raises(FileError, match="No such file"):
        read(tmp_path)
