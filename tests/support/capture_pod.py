"""A pod for the capture of traffic, and what its kernel then holds; programs that fail on purpose."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.cli import PROGRAM
from tests.support.netns import Namespace, require_network_namespaces

INJECTED = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*")
CASES = {
    "injected": INJECTED,
    "tproxy": (*INJECTED, "-m", "TPROXY", "-t", "1338", "-r", "201", "-c", "net1"),
    "dns": (*INJECTED, "--redirect-dns", "--capture-all-dns", "-o", "3306"),
    "virtual": ("-k", "net1,net2", "-i", "10.0.0.0/8,fd00::/8", "-b", "80,443", "-q", "8443", "-u", "1337"),
    "virtual without outbound": ("-k", "net1,net2", "-u", "1337"),
    "every interface": ("-k", "+", "-u", "1337"),
    "odd interfaces": (
        "-c",
        "!,-x,a'b,a\\b, eth1",
        "-k",
        "!!,--j, eth2",
        "-i",
        "10.0.0.0/8",
        "-b",
        "80, 443",
    ),
    "odd words": (
        "-i",
        "10.1.2.3/8,fd00::1/8",
        "-u",
        "root",
        "-g",
        "root",
        "-b",
        "http,1024:2048",
        "-c",
        "e+",
    ),
    "drop invalid": (*INJECTED, "--drop-invalid", "-c", "net1,net2"),
}
BACKENDS = ("nft", "legacy")
EVERY_SAVE = [f"{name}-{backend}-save" for name in ("iptables", "ip6tables") for backend in BACKENDS]


@contextmanager
def capture_pod() -> Iterator[Namespace]:
    """A namespace with an address of each family; skips the test where it cannot be had."""
    require_network_namespaces("iptables-nft", "iptables-legacy", "nft")
    with Namespace("pod") as namespace:
        namespace.add_address("10.0.0.1/32")
        namespace.add_address("2001:db8::1/128")
        yield namespace


def agent(
    pod: Namespace, *words: str, environment: Mapping[str, str] | None = None, command: str = "istio-iptables"
) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, str(PROGRAM), command, *words)
    if command == "istio-iptables":
        words = (*words, "--dual-stack")
    return pod.run(*words, environment=os.environ | dict(environment or {}), check=False)


def apply(pod: Namespace, *words: str) -> str:
    ended = agent(pod, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def rules(pod: Namespace) -> list[str]:
    """Return every rule and chain of ours of both backends and families, and what belongs to them."""
    found = []
    for save in EVERY_SAVE:
        lines = pod.run(save).stdout.splitlines()
        table = ""
        for line in lines:
            table = line if line.startswith("*") else table
            if line.startswith("-A") or (line.startswith(":") and "ISTIO" in line):
                found.append(f"{save} {table} {line.partition(' [')[0]}")
    for words in (
        ("rule",),
        ("-6", "rule"),
        ("route", "show", "table", "all"),
        ("-6", "route", "show", "table", "all"),
    ):
        found += pod.run("ip", *words).stdout.splitlines()
    found += pod.run("ip", "-6", "-o", "address", "show", "dev", "lo").stdout.split("\\")
    native = pod.run("nft", "list", "tables").stdout.splitlines()
    return found + [line for line in native if "istio" in line]


def wrapped(directory: Path, program: str, script: str, *, pattern: str = "ISTIO") -> dict[str, str]:
    """Return an environment in which `script` runs instead of `program` when `pattern` is in its input."""
    real = shutil.which(program)
    file = directory / program
    file.write_text(
        f"#!/bin/sh\ninput=$(cat)\nREAL={real}\n"
        'run() { printf "%s\\n" "$input" | "$REAL" "$@"; }\n'
        f'case "$input" in *"{pattern}"*) {script};; *) run "$@";; esac\n',
        encoding="utf-8",
    )
    file.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def children(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
