"""The command probe: exit status 0 is well. No shell; killed, with its group, at the time limit."""

import ctypes
import os
import signal
import subprocess
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)
_IGNORED_BY_ACTORS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exec_probe(command: tuple[str, ...], *, timeout_s: float) -> str | None:
    """Return None for exit status 0 within `timeout_s`, else why not. Blocks a little longer at most."""
    if not command:
        return "exec: no command"  # the reference crashes here
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_prepare_child,  # noqa: PLW1509  # takes no lock of ours
        )
    except (OSError, ValueError) as error:
        return _start_error(command[0], error)
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        return "command timeout exceeded: signal: killed"
    return None if status == 0 else _status_words(status)


def _prepare_child() -> None:
    """End with the thread that started it, and take the signals that actors ignore."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    for number in _IGNORED_BY_ACTORS:
        signal.signal(number, signal.SIG_DFL)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _start_error(program: str, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError) and "/" not in program:
        return f'exec: "{program}": executable file not found in $PATH'
    words = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return f"fork/exec {program}: {words.lower()}"


def _status_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return f"signal: {(signal.strsignal(-status) or str(-status)).lower()}"
