"""Runs the program as a user does: `bin/pilot-agent` in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(__file__).parents[2] / "bin" / "pilot-agent"


def run_agent(
    *words: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    within_s: float = 30.0,
) -> subprocess.CompletedProcess[str]:
    """Return how `pilot-agent WORDS` ended, with what it wrote.

    `environment` replaces the tests' own variables; fails after `within_s`.
    """
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
