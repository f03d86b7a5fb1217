"""Linux namespaces, mounts and capabilities by their system calls; for tests, as root."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_NET, NEW_PID = 0x20000, 0x4000000, 0x8000000, 0x40000000, 0x20000000
READ_ONLY, NO_SUID, NO_DEV, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS, _SIGKILL = 1, 24, 38, 9
NET_BIND_SERVICE, NET_ADMIN, NET_RAW = 10, 12, 13

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def unshare(namespaces: int) -> None:
    _check(_libc.unshare(namespaces), f"unshare {namespaces:#x}")


def enter(pid: int, *names: str) -> None:
    """Join namespaces of a process, by their names below /proc/PID/ns."""
    descriptors = [(name, os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)) for name in names]
    for name, descriptor in descriptors:  # all are opened first: `mnt` may hide /proc
        _check(_libc.setns(descriptor, 0), f"setns {name} of {pid}")
        os.close(descriptor)


def mount(source: str | Path, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(str(source).encode(), str(target).encode(), kind.encode(), flags, options.encode())
    _check(result, f"mount {source} on {target}")


def unmount(target: Path) -> None:
    """Take a mount away, at once for who looks it up and when nobody uses it any more for the rest."""
    _check(_libc.umount2(str(target).encode(), _DETACH), f"umount {target}")


def make_mounts_private() -> None:
    mount("", Path("/"), flags=RECURSIVE | PRIVATE)


def memory_on(target: Path, mode: str = "0755", size: str = "64m") -> None:
    mount("tmpfs", target, "tmpfs", NO_SUID | NO_DEV, f"mode={mode},size={size}")


def bind(source: Path, target: Path, *, read_only: bool = False, everything_below: bool = False) -> None:
    """Show a file or directory at another place; the place is made if it is missing."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, flags=BIND | (RECURSIVE if everything_below else 0))
    if read_only:
        mount("", target, flags=BIND | REMOUNT | READ_ONLY)


def pivot_root(root: Path) -> None:
    """Make `root` (a mount point) the root directory, and let nothing of the old one be reached."""
    os.chdir(root)
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), f"pivot_root {root}")
    _check(_libc.umount2(b".", _DETACH), "umount the old root")
    os.chdir("/")


def die_with_parent() -> None:
    _check(_libc.prctl(_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl PDEATHSIG")


def become(uid: int, gid: int, capabilities: Iterable[int], *, new_privileges: bool) -> None:
    """Be this user and never have another capability than these."""
    kept = set(capabilities)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in kept:
            _check(_libc.prctl(_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if not new_privileges:
        _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl NO_NEW_PRIVS")


def within(pid: int, what: Callable[[], T], *names: str) -> T:
    """Call `what` in a thread that has joined namespaces (the network's by default) of a process.

    Sockets that it makes stay there.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter(pid, *(names or ("net",)))
            results.append(what())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
