"""`python -m benchmarks`: measures, prints the tables, and writes them as JSON where that is asked for."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import (
    capture,
    dns,
    envoy_killed,
    hot_restart,
    identity,
    idle_cpu,
    latency,
    many_resources,
    memory,
    metrics,
    pushes,
    recovery,
    startup,
    upgrades,
)

_QUESTIONS: Final = {
    "memory": memory.run,
    "startup": startup.run,
    "latency": latency.run,
    "dns": dns.run,
    "identity": identity.run,
    "hot_restart": hot_restart.run,
    "envoy_killed": envoy_killed.run,
    "upgrades": upgrades.run,
    "idle_cpu": idle_cpu.run,
    "pushes": pushes.run,
    "metrics": metrics.run,
    "capture": capture.run,
    "recovery": recovery.run,
    "many_resources": many_resources.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measurements of the agent.")
    parser.add_argument("question", nargs="?", default="all", choices=[*_QUESTIONS, "all"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--times", type=int, help="agents, pairs or rounds, instead of each one's own number")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else what was started would go on
    wanted = [name for name in _QUESTIONS if options.question in (name, "all")]
    reports = []
    for name in wanted:
        report = _QUESTIONS[name](options.times) if options.times else _QUESTIONS[name]()
        print(report, flush=True)
        reports.append(report.as_json())
    if options.json is not None:
        options.json.write_text(json.dumps(reports, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
