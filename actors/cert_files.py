"""CertActor's part for certificates that stand in files: read by a worker, looked at for changes.

A watch says when to look; every look compares identity, size and times of the files, whether the watch
said something or not.
"""

import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from actors.messages.cert import IdentityRotated, SecretFailed
from actors.runtime.context import Context, WorkerFinished
from pilot_agent.log import get_logger
from pilot_agent.security.errors import SecurityError
from pilot_agent.security.file_watch import FileWatch
from pilot_agent.security.material import Material
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.pem import merge_bundles
from pilot_agent.security.resource_names import ROOTS, WORKLOAD, FileCert, FileRoot, file_source
from pilot_agent.security.work import FilesRead, FilesRequest, encode, result
from pilot_agent.security.workload import FileServed, Identity

READ_LIMIT_S: Final = 10.0
"""How long a pair that does not belong together is looked at again: it may be half replaced."""

READ_TIMEOUT_S: Final = 20.0
READ_AGAIN_S: Final = 60.0
"""Files that could not be used are read again when they change, and as often as this in any case."""

GONE_FOR_S: Final = 2.0
"""Files that are away for longer than it takes to replace them are told of."""

_Print = tuple[tuple[int, ...], ...]
_log = get_logger("cache")


class FileOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """New material from files, the identity that has numbered it, and what Envoy's actor is told of it."""

    identity: Identity
    material: Material
    rotated: IdentityRotated | None


class FileSecrets:
    """Which names come from files, and what is being read."""

    def __init__(
        self, context: Context, options: SecurityOptions, on_change: Callable[[], None] = lambda: None
    ) -> None:
        """`on_change` is called from another thread when a look may find something."""
        self._context, self._options = context, options
        self._reading: dict[int, tuple[str, _Print]] = {}  # worker id → name, files as they were
        self._names: set[str] = set()  # that were asked for and came from files
        self._seen: dict[str, _Print] = {}
        self._unusable: dict[str, tuple[_Print, float]] = {}  # files as they were, when that was
        self._gone: dict[str, float | None] = {}  # since when files are away; None: it was said
        self._watch = FileWatch(on_change)
        self._is_watched = True

    def has(self, name: str) -> bool:
        """Return whether `name` is answered from files now."""
        return self._request(name) is not None

    def read(self, name: str) -> None:
        """Have the files of `name` read; `finished` gets what was in them."""
        request = self._request(name)
        if request is None or any(name == reading for reading, _ in self._reading.values()):
            return
        if name not in self._names:
            self._names.add(name)
            self._follow()
        seen = _prints(request)
        worker_id = self._context.run_worker("files", encode(request), timeout_s=READ_TIMEOUT_S)
        self._reading[worker_id] = (name, seen)

    def look(self, now_s: float) -> None:
        """Read again what has changed since it was read."""
        if not self._names:
            return
        self._follow()  # first: what changes after the look is told
        for name in self._names:
            request = self._request(name)
            if request is None:
                self._are_gone(name, now_s)
                continue
            self._gone.pop(name, None)
            if self._is_news(name, _prints(request), now_s):
                self.read(name)

    def _are_gone(self, name: str, now_s: float) -> None:
        """Say once that what was served from files stands in none any more."""
        since_s = self._gone.setdefault(name, now_s)
        if since_s is None or now_s - since_s < GONE_FOR_S:
            return
        self._gone[name] = None
        missing = ", ".join(path for path in self._paths(name) if not self._usable(path))
        _log.error(f"certificate files of {name} are gone, empty or unreadable: {missing}")

    def _is_news(self, name: str, prints: _Print, now_s: float) -> bool:
        if name in self._unusable:
            unusable, since_s = self._unusable[name]
            return prints != unusable or not 0 <= now_s - since_s < READ_AGAIN_S
        return prints != self._seen.get(name)

    def _follow(self) -> None:
        try:
            self._watch.follow(path for name in self._names for path in self._paths(name))
        except OSError as error:
            if self._is_watched:
                self._context.count("num_file_watcher_failures_total")
                _log.warn(f"certificate files are not watched, they are looked at regularly: {error}")
            self._is_watched = False
        else:
            self._is_watched = True

    def _paths(self, name: str) -> tuple[str, ...]:
        """Return the files of `name`, be they there or not."""
        files = self._options.files
        match file_source(name):
            case FileCert(cert_path=cert, key_path=key):
                return cert, key
            case FileRoot(root_path=path):
                return (path or self._options.os_bundle_path,)
        return (files.root_path,) if name == ROOTS else (files.cert_path, files.key_path)

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
            self._unusable[name] = (seen, now_s)
            return SecretFailed(resource_name=name, reason=str(error))
        if 0.0 < found.not_after_unix_s <= now_s:
            ago = f"the certificate of {name} has expired {now_s - found.not_after_unix_s:.0f} s ago"
            if _served_digest(identity, name) not in (None, _digest(found, "")):
                # The reference serves it; with what is served now connections go on.
                self._unusable[name] = (seen, now_s)
                return SecretFailed(resource_name=name, reason=f"{self._options.files.cert_path}: {ago}")
            _log.warn(ago)
        self._unusable.pop(name, None)
        self._seen[name] = seen
        is_identity = name == WORKLOAD or (self._options.ca is None and not self._options.external_sds)
        return _outcome(name, found, identity, now_s, is_identity=is_identity)

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
            if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for
                return False
            with Path(path).open("rb") as file:
                return bool(file.read(1))
        except OSError:
            return False


def _prints(request: FilesRequest) -> _Print:
    """Return what changes when a file is replaced or written to; a missing file is zero."""
    found: list[tuple[int, ...]] = []
    for path in filter(None, (request.cert_path, request.key_path, request.root_path)):
        try:
            status = Path(path).stat()
            times = (status.st_mtime_ns, status.st_ctime_ns)
            found.append((status.st_dev, status.st_ino, status.st_size, *times))
        except OSError:
            found.append((0,))
    return tuple(found)


def _digest(found: FilesRead, roots: str) -> str:
    """Tells a change, guards nothing: importing hashlib would load OpenSSL (7 ms, 3 MB) into every actor."""
    return "".join(f"{zlib.crc32(part.encode()):08x}" for part in (found.chain_pem, found.key_pem, roots))


def _served_digest(identity: Identity, name: str) -> str | None:
    return next((served.digest for served in identity.files if served.name == name), None)


def _outcome(
    name: str, found: FilesRead, identity: Identity, now_s: float, *, is_identity: bool
) -> FileOutcome:
    """Return what was read as material; files are served as they are, so it has no end of its own."""
    roots = merge_bundles(found.root_pem, identity.trust_bundle) if name == ROOTS else found.root_pem
    digest = _digest(found, roots)
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
    )
    is_rotation = (
        is_identity and bool(found.key_pem) and before is not None and before.version_info != version_info
    )
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
