"""`envoy --mode validate`: asks Envoy itself whether it would start.

A new epoch that fails to start leaves the shared memory of its base id marked as initializing, and no
hot restart with that base id succeeds any more (Envoy 1.40); so nobody is started who would fail.
"""

import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

_QUOTED_CHARACTERS: Final = 500
_PR_SET_PDEATHSIG: Final = 1
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
            preexec_fn=_end_with_the_asker,  # takes no lock of ours
        )
    except subprocess.TimeoutExpired:
        return f"envoy --mode validate took longer than {timeout_s:g}s"
    except OSError as error:
        return f"envoy --mode validate: {argv[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    said = done.stdout.decode("utf-8", "replace").strip()[-_QUOTED_CHARACTERS:]
    return f"envoy --mode validate ended with {done.returncode}: {said}"


def _end_with_the_asker() -> None:
    """Have the kernel kill it with the thread that waits for it: a killed agent leaves no process."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
