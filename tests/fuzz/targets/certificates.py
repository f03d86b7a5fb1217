"""PEM and certificate files: what a CA, a mounted volume or istiod's bundle may hold."""

import contextlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from lab.authority import Authority
from pilot_agent.security.certificate import (
    CertificateError,
    certificate_facts,
    check_certificates,
    csr_public_key,
)
from pilot_agent.security.file_worker import read_files
from pilot_agent.security.pem import assemble_chain, blocks, merge_bundles
from pilot_agent.security.work import FilesRequest, encode

_SEPARATOR: Final = b"\n=====\n"
_SPIFFE: Final = "spiffe://cluster.local/ns/default/sa/a"


def target(data: bytes) -> None:
    """Read text as everything that it could be; and files, divided where the seeds divide them."""
    text = data.decode(errors="replace")
    for read in (certificate_facts, check_certificates, csr_public_key):
        with contextlib.suppress(CertificateError):
            read(text)
    found = blocks(text)
    assert merge_bundles(text, ()) == "\n".join(sorted(set(found)))
    assemble_chain(found)
    _files(data)


def _files(data: bytes) -> None:
    chain, _, key = data.partition(_SEPARATOR)
    folder = _folder()
    (folder / "cert-chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)
    paths = str(folder / "cert-chain.pem"), str(folder / "key.pem")
    for pair, root in ((paths, ""), (("", ""), paths[0])):
        request = FilesRequest(
            cert_path=pair[0], key_path=pair[1], root_path=root, first_wait_s=0.0, limit_s=0.0
        )
        assert isinstance(read_files(encode(request)), bytes)


@cache
def _folder() -> Path:
    made = tempfile.TemporaryDirectory(prefix=f"fuzz-{os.getpid()}-")
    _kept.append(made)
    return Path(made.name)


_kept: Final[list[tempfile.TemporaryDirectory[str]]] = []


def seeds() -> list[bytes]:
    authority = Authority()
    pair, other = authority.issue(_SPIFFE), authority.issue("other.example")
    chain = pair.certificate_chain_pem
    return [
        chain + _SEPARATOR + pair.private_key_pem,
        other.certificate_chain_pem + _SEPARATOR + pair.private_key_pem,
        authority.root_pem.encode(),
        b"text before\n" + chain + b"\r\ntext behind\r\n" + chain,
    ]
