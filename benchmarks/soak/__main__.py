"""Runs a soak, or makes the report of one that has run.

    python -m benchmarks.soak [--hours N | --minutes N] [--pace compressed|real] [--out DIRECTORY]
    python -m benchmarks.soak --report RECORD [--out DIRECTORY]

It ends with 1 if something grows, a request failed, an actor ended by itself or a push was not taken.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.report import conditions
from benchmarks.rig import short_directory
from benchmarks.soak.record import Record, Sample, Writer, read
from benchmarks.soak.report import pack, write
from benchmarks.soak.world import COMPRESSED, REAL, Pace, Schedule, World, running

_PACES: Final = {"compressed": COMPRESSED, "real": REAL}


def run(record: Path, pace: Pace, *, duration_s: float, every_s: float, told: dict[str, str]) -> None:
    """Let it run and write the record; Ctrl-C ends it early."""
    writer = Writer(record, dict(told))
    with short_directory() as directory, running(directory, pace, writer) as world:
        try:
            with Schedule(world, pace):
                _watch(world, duration_s, every_s)
        except KeyboardInterrupt:
            world.trouble("ended early")
        world.quit()
    writer.close()


def _watch(world: World, duration_s: float, every_s: float) -> None:
    for number in range(int(duration_s // every_s) + 1):
        time.sleep(max(0.0, world.began_s + number * every_s - time.monotonic()))
        try:
            world.sample()
        except (AssertionError, OSError) as error:
            world.trouble(f"no sample: {error}")
        else:
            print(_line(world.writer.record.samples[-1]), flush=True)


def _line(sample: Sample) -> str:
    agents = "  ".join(
        f"{name}: {sum(each.own_kib for each in one.holdings.processes.values()) / 1024:5.1f} MiB own, "
        f"{sum(each.descriptors for each in one.holdings.processes.values())} descriptors, "
        f"{one.restarts} restarts, {one.rotations} rotations, epoch {one.epoch}"
        for name, one in sample.agents.items()
    )
    return f"{sample.at_s:6.0f} s  {agents}  failed {sample.failed}, unaccepted {sample.unaccepted}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Does anything grow?")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=1.0, metavar="N")
    length.add_argument("--minutes", type=float, metavar="N")
    parser.add_argument("--pace", choices=sorted(_PACES), default="compressed")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between two samples")
    parser.add_argument("--out", type=Path, default=Path("soak"), metavar="DIRECTORY", help="of the report")
    parser.add_argument("--report", type=Path, metavar="RECORD", help="of a run that is over, nothing else")
    parser.add_argument("--note", default="", help="a condition to be told in the report")
    options = parser.parse_args(arguments)
    if options.report is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        return _told(read(options.report), options.out)
    duration_s = (options.minutes or options.hours * 60) * 60
    if not 0 < options.every <= duration_s / 2:
        parser.error(f"--every {options.every:g}: wanted at least three samples in {duration_s:g} s")
    options.out.mkdir(parents=True, exist_ok=True)
    began = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = {"began": began, "pace": options.pace, "note": options.note, **conditions()}
    record = options.out / "record.jsonl"
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    run(record, _PACES[options.pace], duration_s=duration_s, every_s=options.every, told=told)
    return _told(read(pack(record)), options.out)


def _told(record: Record, out: Path) -> int:
    """Write the report, say the verdict, return the exit status."""
    if not record.samples:
        print("no samples, no report")
        return 1
    is_passed = write(record, out)
    print((out / "report.md").read_text(encoding="utf-8"))
    return 0 if is_passed else 1


if __name__ == "__main__":
    sys.exit(main())
