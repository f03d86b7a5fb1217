"""What a CNI plugin's run needs: no name look-ups over the network, and the pod's own lock.

This process, which does nothing else, goes into a mount namespace of its own. In it nothing stands in
/etc/nsswitch.conf, and legacy iptables locks the pod's network namespace file instead of the node's lock.
"""

import ctypes
import os
from collections.abc import Iterable
from typing import Final

from pilot_agent.capture.backend import Backend
from pilot_agent.log import get_logger

_CLONE_NEWNS: Final = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 0x1000, 0x4000, 1 << 18, 1 << 19
_NSSWITCH: Final = "/etc/nsswitch.conf"
_LOCK: Final = "/run/xtables.lock"

_log = get_logger()


def isolate_name_lookups() -> None:
    """Go into a mount namespace without nsswitch.conf; where that fails, things run plainly."""
    try:
        _unshare()
        _bind("/dev/null", _NSSWITCH)
    except OSError as error:
        _log.warn(f"cannot run iptables in a mount namespace of its own, running it plainly: {error}")


def lock_for(network_namespace: str, backends: Iterable[Backend]) -> None:
    """Let legacy iptables of the pod wait for nobody but the pod's own; a no-op without the file's name."""
    legacy = [backend for backend in backends if not backend.is_nft]
    if not network_namespace or not legacy:
        return
    if all(backend.takes_lockfile for backend in legacy):
        os.environ["XTABLES_LOCKFILE"] = network_namespace
        return
    try:
        os.close(os.open(_LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _bind(network_namespace, _LOCK)
    except OSError as error:
        _log.warn(f"cannot use {network_namespace} (--network-namespace) as the lock: {error}")


def _unshare() -> None:
    libc = _libc()
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        _check(libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), "mount /")


def _bind(source: str, target: str) -> None:
    _check(_libc().mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None), f"bind {target}")


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
    )
    return libc


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
