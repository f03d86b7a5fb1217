"""Modules on the disk: found again, or fetched; checked against their checksum at every use.

Source: the reference's Wasm cache: file names, keys, pull policies. Beyond it: the table of contents
outlives the agent and is shared (`index`), files are written beside and renamed, and a file that is not
what it was when it came is fetched again. A resource version counts as known when its module is there,
not when it was asked for.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from pilot_agent.http import Deadline, HttpError, HttpTimeoutError
from pilot_agent.log import get_logger
from pilot_agent.wasm.credentials import from_docker_config, from_secret
from pilot_agent.wasm.download import sha256_of
from pilot_agent.wasm.errors import ChecksumError, FetchError, InvalidModuleError, WasmError
from pilot_agent.wasm.http_fetch import HttpFetch
from pilot_agent.wasm.image_name import (
    authority_of,
    is_latest,
    module_name,
    parse_image,
    scheme_of,
    without_userinfo,
)
from pilot_agent.wasm.incoming import incoming_folder, sweep
from pilot_agent.wasm.index import Contents, Entry, Index, Tag
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.wasm.registry import Registry
from pilot_agent.wasm.tally import Tally
from pilot_agent.wasm.unpack import is_module
from pilot_agent.wasm.web import Web

Policy = Literal["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]
_log = get_logger("wasm")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One module as a resource asks for it."""

    url: str
    checksum: str = ""  # lower-case hexadecimal; of the module, or of an image's manifest
    resource: str = ""
    version: str = ""  # the plugin's resource version
    policy: Policy = "UNSPECIFIED_POLICY"
    secret: str | None = None  # a .dockerconfigjson

    def __repr__(self) -> str:
        return f"Wanted(url={self.shown!r}, resource={self.resource!r}, version={self.version!r})"

    @property
    def shown(self) -> str:
        """Return the URL for texts, without user and password."""
        return without_userinfo(self.url)

    @property
    def ignores_version(self) -> bool:
        """Return whether a module that is there is good for every version of the plugin."""
        if self.policy == "UNSPECIFIED_POLICY":
            return not is_latest(self.url)
        return self.policy == "IfNotPresent"


class Cache:
    """The modules below `options.directory`; for many threads."""

    def __init__(
        self,
        options: WasmOptions,
        web: Web,
        tally: Tally,
        *,
        now_s: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._options, self._web, self._tally = options, web, tally
        self._now_s, self._sleep = now_s, sleep
        self._root = Path(options.directory)
        self._index = Index(self._root)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def count(self) -> int:
        """Return how many modules there are."""
        return self._index.read().count()

    def get(self, wanted: Wanted, deadline: Deadline) -> Path:
        """Return the file of the module, fetched if it is not there.

        Raises:
            WasmError: it cannot be had; the text says why.
        """
        try:
            if scheme_of(wanted.url) not in ("http", "https", "oci"):
                scheme = scheme_of(wanted.url) or repr(wanted.shown)
                raise FetchError(f"unsupported Wasm module downloading URL scheme: {scheme}")
            with self._one_at_a_time(_folder_of(wanted.url), deadline):
                return self._found(wanted) or self._fetched(wanted, deadline)
        except FetchError as error:
            self._tally.fetch(error.fetch_result)
            raise
        except HttpError as error:
            self._tally.fetch(FetchError.fetch_result)
            raise FetchError(f"wasm module {wanted.shown}: {error}") from error
        except OSError as error:
            self._tally.fetch(FetchError.fetch_result)
            raise WasmError(f"wasm module {wanted.shown} cannot be kept in {self._root}: {error}") from error

    def holds(self, path: Path) -> bool:
        """Return whether a file that `get` returned once is still there and unharmed."""
        entry = self._index.read().find(path.parent.name, path.stem)
        return entry is not None and path.parent.parent == self._root and not _harm(path, entry)

    def purge(self, in_use: Collection[str] = ()) -> int:
        """Delete what was not used for the expiry, or nobody knows; return how many modules are left.

        Files that Envoy was given last (`in_use`) count as used now: a new Envoy may be told of them.
        """
        if not self._root.is_dir():
            return 0
        left = self._index.update(lambda contents: self._purge_table(contents, frozenset(in_use)))
        known = set(self._paths(left))
        for path in self._root.glob("[0-9a-f]*/*.wasm"):
            if path not in known and self._is_old(path, self._options.module_expiry_s):
                _remove(path)
        sweep(self._root)
        return left.count()

    @contextmanager
    def _one_at_a_time(self, folder: str, deadline: Deadline) -> Iterator[None]:
        """Let several resources of one response fetch their common module once."""
        lock = self._locks[folder]
        if not lock.acquire(timeout=deadline.left_s()):
            raise HttpTimeoutError("another fetch of the same module did not end in time")
        try:
            yield
        finally:
            lock.release()

    def _found(self, wanted: Wanted) -> Path | None:
        """Return the module if its checksum is known beforehand and it is there."""
        checksum = wanted.checksum or _digest_of(wanted.url)
        if not checksum:
            tag = self._index.read().tags.get(_hashed(wanted.url))
            if tag is not None and (
                wanted.ignores_version or tag.versions.get(wanted.resource) == wanted.version
            ):
                checksum = tag.checksum
        return self._looked_up(checksum, wanted)

    def _looked_up(self, checksum: str, wanted: Wanted) -> Path | None:
        path = self._used(_folder_of(wanted.url), checksum, wanted) if checksum else None
        self._tally.lookup(hit=path is not None)
        return path

    def _used(self, folder: str, checksum: str, wanted: Wanted) -> Path | None:
        """Return the file if it is there and unharmed; note that it is used.

        The note comes first: after it a purge, of this agent or another, leaves the file alone.
        """
        if self._index.read().find(folder, checksum) is None:
            return None

        def touch(contents: Contents) -> Entry | None:
            entry = contents.find(folder, checksum)
            if entry is not None:
                entry.touched_unix_s = self._now_s()
                _note_tag(contents, folder, checksum, wanted)
            return entry

        entry, path = self._index.update(touch), self._path(folder, checksum)
        if entry is None:
            return None
        problem = _harm(path, entry)
        if not problem:
            return path
        _log.warn(f"wasm module {path} is not used: {problem}")
        self._index.update(lambda contents: contents.drop(folder, checksum))
        _remove(path)
        return None

    def _fetched(self, wanted: Wanted, deadline: Deadline) -> Path:
        self._root.mkdir(parents=True, exist_ok=True)
        sweep(self._root)
        with incoming_folder(self._root) as folder:
            file = folder / "module"
            if scheme_of(wanted.url) == "oci":
                return self._from_registry(wanted, file, deadline)
            return self._from_http(wanted, file, deadline)

    def _from_http(self, wanted: Wanted, file: Path, deadline: Deadline) -> Path:
        fetch = HttpFetch(
            self._web,
            insecure=self._options.is_insecure(authority_of(wanted.url)),
            attempts=self._options.request_attempts,
            request_timeout_s=self._options.request_timeout_s,
            limit_bytes=self._options.max_binary_bytes,
            sleep=self._sleep,
        )
        module = fetch.download(wanted.url, file, deadline)
        checksum = sha256_of(module)
        _check(wanted, checksum, (checksum,))
        return self._looked_up(checksum, wanted) or self._stored(module, wanted, checksum)

    def _from_registry(self, wanted: Wanted, file: Path, deadline: Deadline) -> Path:
        name = parse_image(wanted.url)
        if wanted.secret is None:
            credentials = from_docker_config(self._options.docker_config_path, name.registry)
        else:
            credentials = from_secret(wanted.secret, name.registry)
        registry = Registry(
            self._web,
            name,
            credentials=credentials,
            insecure=self._options.is_insecure(authority_of(wanted.url)),
            deadline=deadline,
            sleep=self._sleep,
        )
        image = registry.image()
        _check(wanted, image.digest, image.digests)
        checksum = wanted.checksum or name.digest or image.digest
        found = self._looked_up(checksum, wanted)
        if found is not None:
            return found
        registry.download(image, file, limit_bytes=self._options.max_binary_bytes)
        return self._stored(file, wanted, checksum)

    def _stored(self, module: Path, wanted: Wanted, checksum: str) -> Path:
        """Put a module that came into its place."""
        if not is_module(module):
            raise InvalidModuleError(f"fetched Wasm binary from {wanted.shown} is invalid")
        folder = _folder_of(wanted.url)
        path = self._path(folder, checksum)
        entry = Entry(
            sha256=sha256_of(module), size_bytes=module.stat().st_size, touched_unix_s=self._now_s()
        )
        module.chmod(0o644)
        _place(module, path)

        def note(contents: Contents) -> None:
            contents.modules.setdefault(folder, {})[checksum] = entry
            _note_tag(contents, folder, checksum, wanted)

        self._index.update(note)
        self._tally.fetch("success")
        return path

    def _path(self, folder: str, checksum: str) -> Path:
        return self._root / folder / f"{checksum}.wasm"

    def _paths(self, contents: Contents) -> Iterator[Path]:
        for folder, entries in contents.modules.items():
            for checksum in entries:
                yield self._path(folder, checksum)

    def _purge_table(self, contents: Contents, in_use: frozenset[str]) -> Contents:
        before_s = self._now_s() - self._options.module_expiry_s
        for folder, entries in list(contents.modules.items()):
            for checksum, entry in entries.items():
                if str(self._path(folder, checksum)) in in_use:
                    entry.touched_unix_s = self._now_s()
            for checksum in [key for key, entry in entries.items() if entry.touched_unix_s < before_s]:
                _remove(self._path(folder, checksum))
                contents.drop(folder, checksum)
        return contents

    def _is_old(self, path: Path, age_s: float) -> bool:
        try:
            return path.stat().st_mtime < self._now_s() - age_s
        except OSError:
            return False


def _digest_of(url: str) -> str:
    return parse_image(url).digest if scheme_of(url) == "oci" else ""


def _check(wanted: Wanted, got: str, accepted: "tuple[str, ...] | frozenset[str]") -> None:
    """Raises: ChecksumError: something else came than was asked for."""
    if wanted.checksum and wanted.checksum not in accepted:
        raise ChecksumError(
            f"module downloaded from {wanted.shown} has checksum {got}, "
            f"which does not match: {wanted.checksum}"
        )


def _note_tag(contents: Contents, folder: str, checksum: str, wanted: Wanted) -> None:
    """Remember what this URL led to, unless it can lead to nothing else."""
    if _digest_of(wanted.url):
        return
    key = _hashed(wanted.url)
    tag = contents.tags.get(key)
    if tag is None or tag.checksum != checksum:
        versions = tag.versions if tag is not None else {}
        tag = contents.tags[key] = Tag(folder=folder, checksum=checksum, versions=versions)
    tag.versions[wanted.resource] = wanted.version


def _folder_of(url: str) -> str:
    """Return the name of the folder of all versions of a module. Raises: FetchError."""
    return _hashed(module_name(url))


def _hashed(text: str) -> str:
    """Return what stands for a URL on the disk, where its password must not be read."""
    return sha256(text.encode()).hexdigest()


def _harm(path: Path, entry: Entry) -> str:
    """Return why the file is not what it was when it came, empty if it is."""
    try:
        size = path.stat().st_size
        if size != entry.size_bytes:
            return f"it has {size} bytes instead of {entry.size_bytes}"
        got = sha256_of(path)
    except OSError as error:
        return str(error)
    return "" if got == entry.sha256 else f"its sha256 is {got} instead of {entry.sha256}"


def _place(module: Path, path: Path) -> None:
    """Rename into place; a purge may remove the folder in between, once."""
    for attempt in (1, 2):
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o755)  # whatever the umask is
        try:
            module.replace(path)
        except FileNotFoundError:
            if attempt == 2:
                raise
        else:
            return


def _remove(path: Path) -> None:
    """Remove a module, and its folder when it is the last."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warn(f"{path} cannot be removed: {error}")
        return
    with suppress(OSError):  # others are in it, or it is gone
        path.parent.rmdir()
