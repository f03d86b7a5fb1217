"""How long an init container takes: from exec to rules in place, beside iptables-restore with the same input.

    python -m benchmarks.capture [ROUNDS]         # root; in network namespaces of its own

Each round has a namespace of its own, so that both begin with a kernel that holds no table. Caveats: the
restore calls are started from this process, as a shell would; the agent is started with this interpreter;
compiled modules and programs are in the page cache.
"""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tests.support.cli import PROGRAM
from tests.support.netns import Namespace

_FLAGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021,15020")
_CASES = {
    "IPv4": _FLAGS,
    "IPv4 and IPv6": (*_FLAGS, "--dual-stack"),
    "TPROXY, IPv4 and IPv6": (*_FLAGS, "--dual-stack", "-m", "TPROXY"),
}
_INPUT = re.compile(
    r"Running iptables restore with: (\S+) and the following input:\n(.*?COMMIT)\n(?=20)", re.DOTALL
)
_ALLOWED_MS = 80.0

T = TypeVar("T")


def main() -> int:
    """Print a table and return 0 if every case is within 1.5 times the restore calls plus 80 ms."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print("| case | restore alone, ms | exec to rules, ms | exec to exit, ms | limit, ms |")
    print("| --- | --- | --- | --- | --- |")
    within = True
    for name, flags in _CASES.items():
        restores, applied, ended = [], [], []
        inputs = _INPUT.findall(_in_namespace(partial(_agent, flags))[2])
        for _ in range(rounds):
            restores.append(_in_namespace(partial(_restore, inputs)))
            first, last, _ = _in_namespace(partial(_agent, flags))
            applied.append(first)
            ended.append(last)
        alone, rules, whole = (statistics.median(times) * 1000 for times in (restores, applied, ended))
        limit = 1.5 * alone + _ALLOWED_MS
        within = within and rules <= limit
        print(f"| {name} | {alone:.1f} | {rules:.1f} | {whole:.1f} | {limit:.1f} |", flush=True)
    return 0 if within else 1


def _in_namespace(measure: Callable[[], T]) -> T:
    with Namespace("pod") as pod:
        pod.add_address("10.0.0.1/32")
        pod.add_address("2001:db8::1/128")
        with pod.entered():
            return measure()


def _restore(inputs: list[tuple[str, str]]) -> float:
    begin = time.perf_counter()
    for program, text in inputs:
        subprocess.run([program, "--noflush"], input=f"{text}\n", text=True, check=True)
    return time.perf_counter() - begin


def _agent(flags: tuple[str, ...]) -> tuple[float, float, str]:
    """Return when the rules were in place, when it ended, and what it said."""
    begin, first, lines = time.perf_counter(), 0.0, []
    words = [sys.executable, str(PROGRAM), "istio-iptables", *flags]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Final iptables state (IPv4)" in line:
                first = time.perf_counter() - begin
            lines.append(line)
    assert process.returncode == 0, "".join(lines)
    return first, time.perf_counter() - begin, "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
