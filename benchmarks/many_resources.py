"""What 20,000 resources of 1 KiB in one Delta push cost the agent, beside the same bytes as one resource.

The rig of `latency`: a client asks and waits for the answer, in rounds that change between the
two shapes. Counted is the CPU of the agent's two xDS processes, user and system, by the kernel's clock.

Caveats:
    - The thread that writes the last known good configuration counts in the rows "with the store"; in the
      others there is no store (`XDS_LAST_KNOWN_GOOD=off`).
    - The kernel counts in ticks of 10 ms; a round has several pushes.
"""

import os
import time
from pathlib import Path
from typing import Final

from benchmarks.latency import Size, Stream, two_streams
from benchmarks.report import Report, Row, Spread
from tests.support.agent import RealAgent

_RESOURCES: Final = 20_000
_BYTES: Final = _RESOURCES * 1024
_PUSHES: Final = 5
_XDS: Final = ("upstream-xds", "downstream-xds")
_TICK_MS: Final = 1e3 / os.sysconf("SC_CLK_TCK")
_SETTLE_S: Final = 1.0


def run(rounds: int = 5) -> Report:
    """Measure `rounds` rounds of five pushes of each shape, with the store and without."""
    rows: list[Row] = []
    for label, store in (("without the store", "off"), ("with the store", "on")):
        with two_streams(XDS_LAST_KNOWN_GOOD=store) as (_, through, agent):
            rows += _measure(label, through, agent, rounds, target="≤ 2" if store == "off" else "")
    return Report(question=f"agent's CPU of one Delta push of {_BYTES / 1e6:.0f} MB", rows=tuple(rows))


def _measure(label: str, through: Stream, agent: RealAgent, rounds: int, *, target: str) -> list[Row]:
    many = Size(label="many", size_bytes=_BYTES, times=_PUSHES, parts=_RESOURCES)
    one = Size(label="one", size_bytes=_BYTES, times=_PUSHES, parts=1)
    for each in (one, many):
        through.ask(each)
        through.round(each)  # not counted
    pids = [agent.actor_pid(role) for role in _XDS]
    found = [(_cpu_of(through, one, pids), _cpu_of(through, many, pids)) for _ in range(rounds)]
    rows = []
    for at, role in enumerate(_XDS):
        for name, side in (("one resource", 0), (f"{_RESOURCES:,} resources", 1)):
            values = [pair[side][at] for pair in found]
            rows.append(Row(what=f"{label}, {name}, {role}", unit="ms", value=Spread.of(values)))
    ratios = [sum(of_many) / sum(of_one) for of_one, of_many in found]
    rows.append(Row(what=f"{label}, many / one", unit="ratio", value=Spread.of(ratios), target=target))
    return rows


def _cpu_of(through: Stream, size: Size, pids: list[int]) -> list[float]:
    """Return the ms of CPU that each process takes for one push of this shape."""
    before = [_cpu_ms(pid) for pid in pids]
    through.round(size)
    time.sleep(_SETTLE_S)  # what is done behind the answer counts too
    return [(_cpu_ms(pid) - was) / size.times for pid, was in zip(pids, before, strict=True)]


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MS
