"""`envoy --mode validate`: asks Envoy itself whether it would start.

A new epoch that fails to start leaves the shared memory of its base id marked as initializing, and no
hot restart with that base id succeeds any more (Envoy 1.40); so nobody is started who would fail.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

_QUOTED_CHARACTERS: Final = 500
_PR_SET_PDEATHSIG: Final = 1
_NICE: Final = 19
_LIBC: Final = ctypes.CDLL(None)


def refusal(argv: Sequence[str], environment: Mapping[str, str], *, timeout_s: float) -> str:
    """Return why Envoy would not start with these arguments; empty if it would.

    `argv` may hold the arguments of a hot restart: in this mode Envoy attaches to nothing.
    """
    command = [*argv, "--mode", "validate"]
    try:
        done = subprocess.run(  # stdin closed: nothing to ask a person
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            preexec_fn=_be_modest,  # takes no lock of ours
        )
    except subprocess.TimeoutExpired:
        return f"envoy --mode validate took longer than {timeout_s:g}s"
    except OSError as error:
        return f"envoy --mode validate: {argv[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    said = done.stdout.decode("utf-8", "replace").strip()[-_QUOTED_CHARACTERS:]
    return f"envoy --mode validate ended with {done.returncode}: {said}"


def _be_modest() -> None:
    """Give the serving Envoy the right of way, and end with the thread that waits for the answer.

    Where memory runs out, the kernel is to take this process and not one that serves.
    """
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"1000")
        os.close(descriptor)
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
