"""Keeps the accepted configuration on disk, on a thread of its own, so that no byte waits for a disk.

Orders come from `keeper`. What cannot be written is given up with one warning a cause: the store is a
help for bad days and never a reason to fail on a good one.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.xds.known_good import files, records
from pilot_agent.xds.known_good.content import Content
from pilot_agent.xds.known_good.keeper import Accepted, Forget, Order, Retain
from pilot_agent.xds.known_good.records import Header, StoreError
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.type_urls import ENDPOINTS, PREFIX, short_name

_COMPACT_FROM_BYTES: Final = 1 << 20
_COMPACT_AT_GROWTH: Final = 2.0
_PULL_SECRET: Final = b"ISTIO_META_WASM_IMAGE_PULL_SECRET"
"""A variable of a Wasm module's configuration whose value is a registry's credential.

It is looked for here and not where responses pass: 10 MB take 9 to 19 ms.
"""
_QUIET_S: Final = 0.5
"""The writer waits until nothing has passed for so long: beside a push, it takes CPU from the push."""
_LATEST_S: Final = 5.0
_MOST_WAITING_BYTES: Final = 128 << 20
"""... or until this much time is over, or this much waits."""
_log = get_logger("xdsproxy")


class Meter(Protocol):
    """Where the store's size is told."""

    def __call__(self, name: str, value: float, /) -> None: ...


class _File(msgspec.Struct):
    """What the writer knows of one type's file."""

    path: Path
    header: Header
    size: int = 0  # whole records
    compact_size: int = 0  # when it was whole for the last time
    compacting_until: int = 0  # 0: no worker is at it
    replacements: int = 0


class _Compacted(msgspec.Struct, frozen=True):
    """A worker has ended."""

    type_url: str
    replacements: int
    size: int | None  # None: it failed


class Store:
    """The files of one node and variant. `submit` never blocks; reading is for the caller's own thread."""

    def __init__(
        self,
        directory: Path,
        *,
        identity: tuple[str, ...],
        variant: Variant,
        limit_bytes: int,
        compact: Callable[[str, bytes], None],
        gauge: Meter,
    ) -> None:
        """`compact` has a worker started (see `files.compact`); `compacted` is to be called with its result.

        It gets a key, which goes to `compacted` again, and the worker's request.
        """
        self._directory, self._identity, self._variant = directory, identity, variant
        self._limit_bytes, self._compact, self._gauge = limit_bytes, compact, gauge
        self._queue: queue.SimpleQueue[Order | _Compacted | threading.Event] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._queued_bytes = 0
        self._submitted, self._hurried = threading.Event(), threading.Event()
        self._stirred_s = 0.0  # when something passed, on `time.monotonic`
        self._thread: threading.Thread | None = None
        self._files: dict[str, _File] = {}
        self._said: set[str] = set()

    def stir(self) -> None:
        """Note that a message passes: what waits to be written goes on waiting for a moment of quiet."""
        self._stirred_s = time.monotonic()

    def submit(self, orders: list[Order]) -> None:
        """Have these written, in order."""
        for order in orders:
            if files.file_name(order.type_url):
                self._put(order if self._has_room_for(order) else Forget(order.type_url, "the disk is slow"))

    def compacted(self, key: str, result: bytes | None) -> None:
        """Take a worker's result; None when it failed."""
        number, _, type_url = key.partition(" ")
        size = msgspec.msgpack.decode(result, type=files.Compacted).size if result is not None else None
        self._put(_Compacted(type_url, int(number), size))

    def flush(self, within_s: float) -> bool:
        """Wait until everything that was submitted is written; return whether it is."""
        if self._thread is None:
            return True
        done = threading.Event()
        self._queue.put(done)
        self._hurried.set()
        self._submitted.set()
        return done.wait(within_s)

    def content(self, type_url: str) -> Content | None:
        """Return what is kept of a type, None if nothing usable is; a damaged file is warned about.

        What was submitted before is written first, unless that takes long.
        """
        name = files.file_name(type_url)
        if not name:
            return None
        self.flush(_QUIET_S)
        try:
            return files.load(self._directory / name, self._header(type_url))
        except (StoreError, OSError) as error:
            self._warn(type_url, "ignored", error)
            return None

    def has_any(self) -> bool:
        """Return whether there is a file of this node's; others are warned about.

        It may still turn out to be damaged. What waits to be written is written soon.
        """
        self._hurried.set()
        found = False
        for path in self._paths(files.SUFFIX):
            type_url = PREFIX + path.name.removesuffix(files.SUFFIX)
            try:
                files.check(files.header_of(path), self._header(type_url))
                found = True
            except (StoreError, OSError) as error:
                self._warn(type_url, "ignored", error)
        return found

    def age_s(self) -> float | None:
        """Return how long ago the newest file was written, None when there is none."""
        written_unix_s = self._written_unix_s()
        return max(time.time() - written_unix_s, 0.0) if written_unix_s else None

    def tell_written(self) -> None:
        """Set the gauge of when something was written last, 0.0: never. Its reader works out the age."""
        self._gauge("xds_last_known_good_written_unix_s", self._written_unix_s())

    def _written_unix_s(self) -> float:
        newest = 0.0
        for path in self._paths(files.SUFFIX):
            try:
                newest = max(newest, path.stat().st_mtime)
            except OSError:
                continue
        return newest

    def _paths(self, *suffixes: str) -> list[Path]:
        try:
            return [path for path in self._directory.iterdir() if path.suffix in suffixes]
        except OSError:
            return []

    def _remove_leftovers(self) -> None:
        """Remove what a killed writer was at."""
        for path in self._paths(files.NEW_SUFFIX, files.COMPACTED_SUFFIX):
            path.unlink(missing_ok=True)

    def _put(self, item: Order | _Compacted) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="last-known-good", daemon=True)
                self._thread.start()
        self._queue.put(item)
        if not self._submitted.is_set():
            self._submitted.set()

    def _has_room_for(self, order: Order) -> bool:
        size = len(order.body) if isinstance(order, Accepted) else 0
        with self._lock:
            fits = self._queued_bytes + size <= self._limit_bytes
            self._queued_bytes += size if fits else 0
            if self._queued_bytes > _MOST_WAITING_BYTES:
                self._hurried.set()
        return fits

    def _run(self) -> None:
        self._remove_leftovers()
        while True:
            self._submitted.wait()
            self._wait_for_quiet()
            self._submitted.clear()  # before the queue is looked at: who comes later finds it so
            self._hurried.clear()
            while not self._queue.empty():
                self._work_off(self._queue.get())
            self._tell()

    def _wait_for_quiet(self) -> None:
        latest_s = time.monotonic() + _LATEST_S
        while (left_s := min(self._stirred_s + _QUIET_S, latest_s) - time.monotonic()) > 0:
            if self._hurried.wait(left_s):
                return

    def _work_off(self, item: Order | _Compacted | threading.Event) -> None:
        if isinstance(item, threading.Event):
            self._tell()
            item.set()
            return
        size = len(item.body) if isinstance(item, Accepted) else 0
        try:
            self._handle(item)
        except (StoreError, OSError) as error:
            self._give_up(item.type_url, error)
        finally:
            del item  # else 50 MB would stay until the next
            with self._lock:
                self._queued_bytes -= size

    def _tell(self) -> None:
        self._gauge("xds_last_known_good_bytes", self._total())
        self.tell_written()

    def _handle(self, item: Order | _Compacted) -> None:
        file = self._file(item.type_url)
        match item:
            case Accepted() if item.type_url != ENDPOINTS and _PULL_SECRET in item.body:
                self._forget(file, "a Wasm module's pull secret is in it")
            case Accepted(afresh=True):
                self._replace(file, item.body)
            case Accepted():
                self._append(file, records.ACCEPTED, item.body)
            case Retain():
                self._append(file, records.RETAIN, msgspec.msgpack.encode(item.claims))
            case Forget():
                self._forget(file, item.reason)
            case _Compacted():
                self._adopt(file, item)

    def _file(self, type_url: str) -> _File:
        known = self._files.get(type_url)
        if known is None:
            path, header = self._directory / files.file_name(type_url), self._header(type_url)
            size = 0
            try:
                size = files.whole_size(path, header)
            except StoreError as error:
                self._warn(type_url, "ignored", error)
            known = self._files[type_url] = _File(path=path, header=header, size=size, compact_size=size)
        return known

    def _replace(self, file: _File, body: bytes) -> None:
        self._check_limit(len(body) - file.compact_size)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.size = file.compact_size = files.write_whole(file.path, file.header, [body])
        file.replacements += 1
        file.compacting_until = 0

    def _append(self, file: _File, kind: int, body: bytes) -> None:
        """Append, where there is something to append to: a part without its beginning is worth nothing."""
        if not file.size:
            return
        if self._total() + len(body) > 2 * self._limit_bytes:  # what is outdated counts until a compaction
            raise StoreError(f"more than twice the limit of {self._limit_bytes} bytes")
        file.size = files.append(file.path, file.size, kind, body)
        grown = file.size - file.compact_size
        if grown > max(_COMPACT_FROM_BYTES, file.compact_size * (_COMPACT_AT_GROWTH - 1)):
            self._start_compaction(file)

    def _total(self) -> int:
        return sum(each.size for each in self._files.values())

    def _check_limit(self, more_bytes: int) -> None:
        """Refuse what would not fit even when all is compact."""
        total = sum(each.compact_size for each in self._files.values()) + more_bytes
        if total > self._limit_bytes:
            raise StoreError(f"{total} bytes are more than the limit of {self._limit_bytes}")

    def _start_compaction(self, file: _File) -> None:
        if file.compacting_until:
            return
        file.compacting_until = file.size
        wanted = files.CompactionWanted(str(file.path), file.size)
        key = f"{file.replacements} {file.header.type_url}"
        self._compact(key, msgspec.msgpack.encode(wanted))

    def _adopt(self, file: _File, done: _Compacted) -> None:
        until, file.compacting_until = file.compacting_until, 0
        if done.replacements != file.replacements or not until:
            files.compacted_path(file.path).unlink(missing_ok=True)
            return
        if done.size is None:
            file.compact_size = file.size  # tried again when it has doubled
            return
        self._check_limit(done.size - file.compact_size)
        file.size = files.adopt(file.path, done.size, until, file.size)
        file.compact_size = done.size

    def _forget(self, file: _File, reason: str) -> None:
        _log.warn(f"last known good configuration: {short_name(file.header.type_url)} not kept: {reason}")
        self._remove(file)

    def _remove(self, file: _File) -> None:
        file.size = file.compact_size = file.compacting_until = 0
        file.replacements += 1
        file.path.unlink(missing_ok=True)

    def _give_up(self, type_url: str, error: Exception) -> None:
        """Keep nothing of a type that cannot be written whole."""
        self._warn(type_url, "not kept", error)
        try:
            self._remove(self._file(type_url))
        except OSError as again:
            self._warn(type_url, "outdated and not removed", again)

    def _warn(self, type_url: str, what: str, error: Exception) -> None:
        text = f"last known good configuration: {short_name(type_url)} {what}: {error}"
        if text not in self._said and len(self._said) < 100:
            self._said.add(text)
            _log.warn(text)

    def _header(self, type_url: str) -> Header:
        return Header(identity=self._identity, variant=self._variant, type_url=type_url)
