"""Wait statuses in Go's words, in which the reference logs them."""

import os
import signal
from typing import Final

_GO_WORDS: Final = {
    signal.SIGABRT: "aborted",
    signal.SIGALRM: "alarm clock",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "floating point exception",
    signal.SIGHUP: "hangup",
    signal.SIGILL: "illegal instruction",
    signal.SIGINT: "interrupt",
    signal.SIGKILL: "killed",
    signal.SIGPIPE: "broken pipe",
    signal.SIGQUIT: "quit",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGTERM: "terminated",
    signal.SIGTRAP: "trace/breakpoint trap",
}


def describe(status: int) -> str:
    """Return `exit status 1`, `signal: killed` or `signal: aborted (core dumped)` for a wait status.

    Source: Go's os.ProcessState.
    """
    if not os.WIFSIGNALED(status):
        return f"exit status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    words = next((text for known, text in _GO_WORDS.items() if known == number), f"signal {number}")
    return f"signal: {words}{' (core dumped)' if os.WCOREDUMP(status) else ''}"


def is_success(status: int) -> bool:
    """Return whether the process ended by itself with 0."""
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def is_kill(status: int) -> bool:
    """Return whether it was SIGKILL, which is what the kernel's out-of-memory killer sends."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
