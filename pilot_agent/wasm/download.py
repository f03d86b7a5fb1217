"""Writes an answer's body to a file, counting and hashing as it comes."""

from hashlib import sha256
from pathlib import Path

from pilot_agent.http import Exchange
from pilot_agent.wasm.web import limited


def save(exchange: Exchange, path: Path, *, limit_bytes: int) -> tuple[str, int]:
    """Return the hexadecimal sha256 and the size of what was written.

    Raises:
        HttpError: more than `limit_bytes` come, or not all of it.
        OSError: the disk.
    """
    digest, size = sha256(), 0
    with path.open("wb") as file:
        for chunk in limited(exchange, limit_bytes):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file. Raises: OSError."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 18):
            digest.update(piece)
    return digest.hexdigest()
