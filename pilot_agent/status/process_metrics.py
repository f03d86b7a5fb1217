"""The `process_*` family, for the agent as a whole: supervisor and actors summed, Envoy not.

CPU time, descriptors and address space are sums; resident memory is the sum of proportional sets, in
which a page that several processes share counts once, so that it stands for what a single process's
resident memory did.
"""

import os
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pilot_agent.status.exposition import Sample

_NETSTAT: Final = Path("/proc/net/netstat")
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STARTTIME_FIELD: Final = 19  # of /proc/PID/stat, counted behind the name
_NO_LIMIT: Final = float((1 << 64) - 1)


def process_samples(
    pids: Sequence[int], *, main_pid: int, resident_bytes: int, descriptors: int
) -> Iterator[Sample]:
    """Yield the family's samples; a process that has just ended counts nothing.

    Args:
        pids: All processes of the agent.
        main_pid: The one whose start counts as the agent's.
        resident_bytes: Sum of the proportional sets.
        descriptors: Sum of the open descriptors.
    """
    import psutil  # noqa: PLC0415  # for who asks for metrics

    cpu_s, virtual_bytes = 0.0, 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            cpu_s += times.user + times.system
            virtual_bytes += process.memory_info().vms
            if pid == main_pid:
                yield Sample(series="process_start_time_seconds", value=process.create_time())
        except psutil.Error:
            continue
    yield Sample(series="process_cpu_seconds_total", value=round(cpu_s, 2))
    yield Sample(series="process_virtual_memory_bytes", value=virtual_bytes)
    yield Sample(series="process_resident_memory_bytes", value=resident_bytes)
    yield Sample(series="process_open_fds", value=descriptors)
    yield Sample(series="process_max_fds", value=_limit(resource.RLIMIT_NOFILE))
    yield Sample(series="process_virtual_memory_max_bytes", value=_limit(resource.RLIMIT_AS))
    yield from _network()


def _limit(which: int) -> float:
    soft, _ = resource.getrlimit(which)
    return _NO_LIMIT if soft == resource.RLIM_INFINITY else soft


def _network() -> Iterator[Sample]:
    """Yield what the whole network namespace received and sent, as Go's collector does."""
    try:
        lines = [line.split() for line in _NETSTAT.read_text().splitlines() if line.startswith("IpExt:")]
        values = dict(zip(*lines, strict=True))
        received, sent = float(values["InOctets"]), float(values["OutOctets"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    yield Sample(series="process_network_receive_bytes_total", value=received)
    yield Sample(series="process_network_transmit_bytes_total", value=sent)


def seconds_since_start(pid: int) -> float:
    """Return how long ago the process `pid` was started (resolution: a clock tick, 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_STARTTIME_FIELD]) / _CLOCK_TICKS
