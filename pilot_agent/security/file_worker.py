"""Reads certificate files and checks them. Runs in a short-lived worker process only.

Source: the reference's reading of certificate files. Its busy loop with FILE_DEBOUNCE_DURATION=0 is not kept.
"""

import os
import random
import stat
import time
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from pilot_agent.log import get_logger
from pilot_agent.security.errors import FileError
from pilot_agent.security.pem import blocks
from pilot_agent.security.work import FilesRead, FilesRequest, decode, encode, failure

SHORTEST_WAIT_S: Final = 0.01
LARGEST_FILE_BYTES: Final = 16 << 20
_log = get_logger("cache")


def read_files(request: bytes) -> bytes:
    """Take an encoded FilesRequest, return an encoded FilesRead or a failure.

    Tried again for `limit_s`, since key and certificate may be replaced one after the other.
    """
    wanted = decode(request, FilesRequest)
    end, wait_s = time.monotonic() + wanted.limit_s, max(wanted.first_wait_s, SHORTEST_WAIT_S)
    while True:
        try:
            return encode(_roots(wanted.root_path) if wanted.root_path else _pair(wanted))
        except (OSError, ValueError, TypeError) as error:
            if time.monotonic() + wait_s > end:
                return failure(FileError(f"context deadline exceeded with last error: {error}"))
        time.sleep(wait_s * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, not a secret
        wait_s *= 1.5


def _roots(path: str) -> FilesRead:
    """Keep the blocks that are certificates; say which are not."""
    kept = []
    for block in blocks(_text(path)):
        try:
            kept.append(x509.load_pem_x509_certificate(block.encode()).public_bytes(Encoding.PEM).decode())
        except ValueError as error:
            _log.error(f"a block of {path} is no certificate and is left out: {error}")
    if not kept:
        raise ValueError(f"{path}: no valid certificate")
    return FilesRead(root_pem="".join(kept))


def _certificates(path: str, chain: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise ValueError(f"{path}: no PEM certificate chain: {error}") from error


def _text(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path} is no regular file")
            data = file.read(LARGEST_FILE_BYTES + 1)
        if len(data) > LARGEST_FILE_BYTES:
            raise ValueError(f"{path} has more than {LARGEST_FILE_BYTES >> 20} MiB")
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from error


def _pair(wanted: FilesRequest) -> FilesRead:
    chain, key = _text(wanted.cert_path), _text(wanted.key_path)
    certificates = _certificates(wanted.cert_path, chain)
    try:
        public = load_pem_private_key(key.encode(), None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{wanted.key_path} is no private key that can be used: {error}") from error
    leaf, form = certificates[0], (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        found = [certificate.public_key().public_bytes(*form) for certificate in certificates]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{wanted.cert_path}: a key that is not understood: {error}") from error
    fitting = [number for number, each in enumerate(found, 1) if each == public.public_bytes(*form)]
    if not fitting:
        raise ValueError(f"{wanted.key_path} does not belong to {wanted.cert_path}")
    if fitting[0] != 1:
        raise ValueError(
            f"{wanted.cert_path}: chain in the wrong order: the key belongs to certificate "
            f"{fitting[0]} of {len(certificates)}, expected the first"
        )
    return FilesRead(
        chain_pem=chain,
        key_pem=key,
        not_after_unix_s=leaf.not_valid_after_utc.timestamp(),
        serial_number=f"{leaf.serial_number:x}",
    )
