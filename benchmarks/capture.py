"""How long an init container takes: from exec to rules in place, beside iptables-restore with the same input.

    python -m benchmarks capture                  # root; in network namespaces of its own

Each round has a namespace of its own, so that both begin with a kernel that holds no table. Caveats: the
restore calls are started from this process, as a shell would; the agent is started with this interpreter;
compiled modules and programs are in the page cache.
"""

import re
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from benchmarks.report import Report, Row, Spread
from tests.support.agent import command
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


def run(rounds: int = 10) -> Report:
    """Measure so many rounds of each case."""
    rows: list[Row] = []
    for name, flags in _CASES.items():
        restores, applied, ended = [], [], []
        inputs = _INPUT.findall(_in_namespace(partial(_agent, flags))[2])
        for _ in range(rounds):
            restores.append(_in_namespace(partial(_restore, inputs)) * 1e3)
            first, last, _ = _in_namespace(partial(_agent, flags))
            applied.append(first * 1e3)
            ended.append(last * 1e3)
        limit = 1.5 * statistics.median(restores) + _ALLOWED_MS
        rows += [
            Row(what=f"{name}: restore alone", unit="ms", value=Spread.of(restores)),
            Row(what=f"{name}: exec to rules", unit="ms", value=Spread.of(applied), target=f"≤ {limit:.1f}"),
            Row(what=f"{name}: exec to exit", unit="ms", value=Spread.of(ended)),
        ]
    note = f"the target is 1.5 times the restore calls, and {_ALLOWED_MS:.0f} ms"
    return Report(question="traffic capture, an init container's work", rows=tuple(rows), notes=(note,))


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
    words = [*command(), "istio-iptables", *flags]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Final iptables state (IPv4)" in line:
                first = time.perf_counter() - begin
            lines.append(line)
    assert process.returncode == 0, "".join(lines)
    return first, time.perf_counter() - begin, "".join(lines)
