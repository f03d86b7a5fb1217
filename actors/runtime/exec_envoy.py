"""Fork and exec of an Envoy, with what must be so in its process. Imports little: it is needed early."""

import os
import signal
from typing import Final

from actors.messages.control import SpawnEnvoy
from actors.runtime import leash, process

_DEFAULT_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGPIPE,
)


def exec_envoy(wish: SpawnEnvoy) -> int:
    """Fork, prctl, exec; return the pid.

    The exec's failure comes back through a pipe that a successful exec closes.

    Raises:
        OSError: it cannot be executed.
    """
    parent, _ = os.getpid(), leash.ends()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become_envoy(wish, parent)
        except OSError as error:
            os.write(write_end, (error.errno or 0).to_bytes(4, "big"))
        finally:
            os._exit(127)
    os.close(write_end)
    with open(read_end, "rb") as pipe:  # noqa: PTH123  # a descriptor
        failure = pipe.read(4)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int.from_bytes(failure, "big"), "exec failed")
    return pid


def _become_envoy(wish: SpawnEnvoy, parent: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    process.hold_no_secrets()  # which opens /proc/self to a user that is not root
    leash.take()  # before setuid: the pipe is the supervisor's user's
    if wish.gid >= 0:
        os.setgid(wish.gid)
    if wish.uid >= 0:
        os.setuid(wish.uid)
    process.hold_no_secrets()  # setuid undid it; the core limit is the container's own
    process.die_with_parent(parent)  # after setuid, which clears it
    os.execve(wish.argv[0], wish.argv, wish.environment)  # noqa: S606  # no shell is the point
