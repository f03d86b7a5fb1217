"""What every child does between fork and its own work: die with the parent, be named, hold no secrets.

Facts behind it: a child with PR_SET_PDEATHSIG gets the signal when the thread that forked it ends, so
it is set right after the fork and the parent is looked at once more, since it may have ended before.
"""

import ctypes
import os
import resource
import select
import signal
from collections.abc import Collection, Iterator
from typing import Final

from pilot_agent.log import get_logger

_log = get_logger()

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_M_ARENA_MAX: Final = -8
_MADV_DONTNEED: Final = 4
_libc: Final = ctypes.CDLL(None, use_errno=True)
_CORE_LIMIT: Final = resource.getrlimit(resource.RLIMIT_CORE)
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_ASKED_AT_ONCE: Final = 64
_GAP_AT_THE_END: Final = 128


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; end at once if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def keep_secrets() -> None:
    """Make this process's memory and descriptors unreadable for others of the same user; no core file.

    Both are inherited by fork. An exec makes a process readable again: then it is to be said once more.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, _CORE_LIMIT[1]))


def hold_no_secrets() -> None:
    """Undo `keep_secrets` in a child that holds none, so that its figures can be read from outside."""
    _prctl(_PR_SET_DUMPABLE, 1)
    resource.setrlimit(resource.RLIMIT_CORE, _CORE_LIMIT)


def one_arena() -> None:
    """Have malloc use one arena: 57 MB instead of 180 after four 50 MB pushes (measured)."""
    _libc.mallopt(_M_ARENA_MAX, 1)


def name_process(comm: str) -> None:
    """Set the name that `ps` shows (15 bytes count); to be called on the main thread."""
    _libc.prctl(_PR_SET_NAME, comm.encode()[:15], 0, 0, 0)  # /proc/self/comm is root's where secrets are kept


def child_signals() -> None:
    """Give an actor or worker its signals: the terminal's and the group's are the supervisor's alone."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGCHLD, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_all_but(kept: Collection[int]) -> None:
    """Close every descriptor above 2 that is not in `kept`."""
    for descriptor in open_descriptors():
        if descriptor > 2 and descriptor not in kept:
            os.close(descriptor)


def open_descriptors() -> list[int]:
    """Return the descriptors that are open, up to the first 128 in a row that are not.

    poll() says it: a process that keeps secrets may not read its own /proc/self/fd unless it is root, and
    closerange() walks a limit that may be a billion. The kernel gives out the lowest free number, so gaps
    are small. It refuses to look at more of them than the process may have, which can be very few.
    """
    found: list[int] = []
    start = gap = 0
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    at_once = _ASKED_AT_ONCE if soft == resource.RLIM_INFINITY else max(1, min(_ASKED_AT_ONCE, soft))
    while gap < _GAP_AT_THE_END:
        poller = select.poll()
        for descriptor in range(start, start + at_once):
            poller.register(descriptor, 0)
        closed = {descriptor for descriptor, events in poller.poll(0) if events & select.POLLNVAL}
        found += [each for each in range(start, start + at_once) if each not in closed]
        gap = gap + at_once if len(closed) == at_once else 0
        start += at_once
    return found


def give_memory_back() -> None:
    """Return what malloc holds and does not need to the system."""
    _libc.malloc_trim(0)


def forget_code() -> None:
    """Unmap the pages of programs and libraries; what is used comes back from the page cache, at once.

    What only the start has used does not come back. Only mappings of files that cannot be written, with no
    page changed (by relocation), are touched.
    """
    for start, end in list(_unchanged_mappings()):
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _unchanged_mappings() -> Iterator[tuple[int, int]]:
    first = last = 0
    is_code = False
    with open("/proc/self/smaps", "rb") as file:  # noqa: PTH123
        for line in file:
            words = line.split()
            if not words[0].endswith(b":"):
                is_code = len(words) > 5 and words[1] in (b"r-xp", b"r--p") and words[5].startswith(b"/")
                first, last = (int(word, 16) for word in words[0].split(b"-"))
            elif words[0] == b"Anonymous:" and is_code and words[1] == b"0":
                yield first, last


def memory() -> tuple[int, int]:
    """Return (PSS, private bytes) of this process, from smaps_rollup."""
    pss = private = 0
    with open("/proc/self/smaps_rollup", "rb") as file:  # noqa: PTH123
        for line in file:
            key, _, rest = line.partition(b":")
            if key == b"Pss":
                pss = int(rest.split()[0]) * 1024
            elif key in (b"Private_Clean", b"Private_Dirty"):
                private += int(rest.split()[0]) * 1024
    return pss, private


def thread_count() -> int:
    """Return how many threads this process has."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[17])


def create_time_s(pid: int) -> float:
    """Return when a process was started, in seconds since the boot: with the pid it names it for ever."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[19]) / _CLOCK_TICKS


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def fork() -> int:
    """Fork, having looked that no other thread could hold a lock then.

    Raises:
        OSError: there is no room for another process.
    """
    if (threads := thread_count()) != 1:
        _log.error(f"fork with {threads} threads: the child may hang; expected 1")
    return os.fork()


def leads_a_terminal() -> bool:
    """Return whether this process leads a terminal's session: then SIGHUP means that the terminal is gone."""
    try:
        return os.getsid(0) == os.getpid() and os.isatty(0)
    except OSError:
        return False


def status_in_words(status: int) -> str:
    """Return what ended a process, from its wait status: `SIGSEGV`, `exit status 1`."""
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"{name} (out of memory?)" if name == "SIGKILL" else name
    return f"exit status {os.waitstatus_to_exitcode(status)}"
