"""Hostile bytes for every parser, each for as long as it is told.

    python -m tests.fuzz --seconds 600 [--seed N] [--only NAME...] [--unguided]

Each target runs in a process of its own, `--seconds` in all. Where `atheris` can be imported the search is
led by coverage; elsewhere, or with `--unguided`, inputs are mutations of good ones, which the seed repeats.
An input that breaks a target is printed in hexadecimal, and the exit status is 1. It becomes a case of
`tests/unit/fuzz/test_targets.py`.
"""

import argparse
import importlib
import importlib.util
import itertools
import random
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

TARGETS: Final = (
    "envelope",
    "frames",
    "notebook",
    "sds",
    "certificates",
    "configuration",
    "dns",
    "probes",
    "status_http",
)
_OURS: Final = ["actors", "pilot_agent", "h11"]
_LONGEST_INPUT: Final = 8192


def main() -> int:
    options = _options()
    if options.run:
        return _run(options.run, options.seconds, options.seed, guided=not options.unguided)
    each_s = options.seconds / len(options.only)
    broken = []
    for name in options.only:
        command = [sys.executable, "-m", "tests.fuzz", "--run", name, "--seconds", str(each_s)]
        command += ["--seed", str(options.seed)] + ["--unguided"] * options.unguided
        if subprocess.run(command, check=False).returncode:
            broken.append(name)
    print(f"broken: {', '.join(broken)}" if broken else f"nothing found in {len(options.only)} targets")
    return int(bool(broken))


def _run(name: str, seconds: float, seed: int, *, guided: bool) -> int:
    if guided and importlib.util.find_spec("atheris") is not None:
        return _guided(name, seconds, seed)
    return _unguided(name, seconds, seed)


def _unguided(name: str, seconds: float, seed: int) -> int:
    from tests.fuzz.mutation import mutations

    module = importlib.import_module(f"tests.fuzz.targets.{name}")
    found = module.seeds()
    end_s = time.monotonic() + seconds
    for number, data in enumerate(itertools.chain(found, mutations(found, random.Random(seed)))):
        try:
            module.target(data)
        except Exception:
            print(f"{name}, seed {seed}, input {number}: {data.hex()}", flush=True)
            raise
        if time.monotonic() > end_s:
            print(f"{name}, seed {seed}: {number + 1} inputs, unguided, nothing found", flush=True)
            break
    return 0


def _guided(name: str, seconds: float, seed: int) -> int:
    atheris: Any = importlib.import_module("atheris")  # no dependency: it is built for few Pythons
    with atheris.instrument_imports(include=_OURS):
        module = importlib.import_module(f"tests.fuzz.targets.{name}")

    def target(data: bytes) -> None:
        try:
            module.target(data)
        except Exception:
            print(f"{name}: {data.hex()}", flush=True)
            raise

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = Path(folder)
        for number, data in enumerate(module.seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
        words = [f"-max_total_time={max(round(seconds), 1)}", f"-seed={seed % (1 << 31) or 1}"]
        words += [
            f"-max_len={_LONGEST_INPUT}",
            "-print_final_stats=1",
            "-verbosity=1",
            f"-artifact_prefix={folder}/",
        ]
        atheris.Setup([sys.argv[0], *words, folder], target)
        atheris.Fuzz()  # ends the process
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Hostile bytes for every parser."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--unguided", action="store_true", help="even where atheris is there")
    parser.add_argument("--run", choices=TARGETS, default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
