"""CertActor's part for certificates that stand in files: read by a worker, looked at for changes.

Every look compares identity, size and time of the files; a watch that wakes at once may take its place.
"""

import zlib
from pathlib import Path
from typing import Final

import msgspec

from actors.messages.cert import IdentityRotated, SecretFailed
from actors.runtime.context import Context, WorkerFinished
from pilot_agent.security.errors import SecurityError
from pilot_agent.security.material import Material
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.pem import merge_bundles
from pilot_agent.security.resource_names import ROOTS, WORKLOAD, FileCert, FileRoot, file_source
from pilot_agent.security.work import FilesRead, FilesRequest, encode, result
from pilot_agent.security.workload import FileServed, Identity

READ_LIMIT_S: Final = 10.0
"""How long a pair that does not belong together is looked at again: it may be half replaced."""

READ_TIMEOUT_S: Final = 20.0
_Print = tuple[tuple[int, int, int], ...]


class FileOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """New material from files, the identity that has numbered it, and what Envoy's actor is told of it."""

    identity: Identity
    material: Material
    rotated: IdentityRotated | None


class FileSecrets:
    """Which names come from files, and what is being read."""

    def __init__(self, context: Context, options: SecurityOptions) -> None:
        self._context, self._options = context, options
        self._reading: dict[int, tuple[str, _Print]] = {}  # worker id → name, files as they were
        self._seen: dict[str, _Print] = {}

    def has(self, name: str) -> bool:
        """Return whether `name` is answered from files now."""
        return self._request(name) is not None

    def read(self, name: str) -> None:
        """Have the files of `name` read; `finished` gets what was in them."""
        request = self._request(name)
        if request is None or any(name == reading for reading, _ in self._reading.values()):
            return
        seen = _prints(request)
        worker_id = self._context.run_worker("files", encode(request), timeout_s=READ_TIMEOUT_S)
        self._reading[worker_id] = (name, seen)

    def look(self) -> None:
        """Read again what has changed since it was read."""
        for name, seen in list(self._seen.items()):
            request = self._request(name)
            if request is not None and _prints(request) != seen:
                self.read(name)

    def finished(
        self, finished: WorkerFinished, identity: Identity, now_s: float
    ) -> FileOutcome | SecretFailed | None:
        """Return what a worker's end means; None if nobody waits for it."""
        name, seen = self._reading.pop(finished.worker_id, ("", ()))
        if not name:
            return None
        if finished.result is None:
            return SecretFailed(resource_name=name, reason=f"files worker: {finished.error}")
        try:
            found = result(finished.result, FilesRead)
        except SecurityError as error:
            return SecretFailed(resource_name=name, reason=str(error))
        self._seen[name] = seen
        return _outcome(name, found, identity, now_s)

    def _request(self, name: str) -> FilesRequest | None:
        source = file_source(name)
        files = self._options.files
        if name == ROOTS and self._usable(files.root_path):
            source = FileRoot(root_path=files.root_path)
        elif name == WORKLOAD and self._usable(files.cert_path) and self._usable(files.key_path):
            source = FileCert(cert_path=files.cert_path, key_path=files.key_path)
        wait_s = self._options.file_debounce_s
        match source:
            case FileCert(cert_path=cert, key_path=key):
                return FilesRequest(cert_path=cert, key_path=key, first_wait_s=wait_s, limit_s=READ_LIMIT_S)
            case FileRoot(root_path=path):
                return FilesRequest(
                    root_path=path or self._options.os_bundle_path, first_wait_s=wait_s, limit_s=READ_LIMIT_S
                )
        return None

    def _usable(self, path: str) -> bool:
        """Return whether the file is there and is not our own output (or it would be served for ever)."""
        output = self._options.output_directory
        if output and Path(path).absolute().parent == Path(output).absolute():
            return False
        try:
            with Path(path).open("rb") as file:
                return bool(file.read(1))
        except OSError:
            return False


def _prints(request: FilesRequest) -> _Print:
    """Return what changes when a file is replaced or written to; a missing file is all zeros."""
    found = []
    for path in filter(None, (request.cert_path, request.key_path, request.root_path)):
        try:
            status = Path(path).stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)


def _outcome(name: str, found: FilesRead, identity: Identity, now_s: float) -> FileOutcome:
    roots = merge_bundles(found.root_pem, identity.trust_bundle) if name == ROOTS else found.root_pem
    # Tells a change, guards nothing: importing hashlib would load OpenSSL (7 ms, 3 MB) into every actor.
    digest = "".join(f"{zlib.crc32(part.encode()):08x}" for part in (found.chain_pem, found.key_pem, roots))
    before = next((served for served in identity.files if served.name == name), None)
    if before is not None and before.digest == digest:
        version_info = before.version_info
    else:
        identity, version_info = identity.numbered(now_s)
        served = FileServed(name=name, digest=digest, version_info=version_info)
        others = tuple(other for other in identity.files if other.name != name)
        identity = msgspec.structs.replace(identity, files=(*others, served))
    material = Material(
        name=name,
        version_info=version_info,
        certificate_chain_pem=found.chain_pem.encode(),
        private_key_pem=found.key_pem.encode(),
        trusted_ca_pem=roots.encode(),
        not_after_unix_s=found.not_after_unix_s,
    )
    is_rotation = name == WORKLOAD and before is not None and before.version_info != version_info
    rotated = (
        IdentityRotated(
            reason="file_changed",
            serial_number=found.serial_number,
            not_after_unix_s=found.not_after_unix_s,
        )
        if is_rotation
        else None
    )
    return FileOutcome(identity=identity, material=material, rotated=rotated)
