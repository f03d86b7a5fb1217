"""Further versions of the agent beside the one under test, each in a directory of its own."""

import shutil
import sys
from pathlib import Path

import pilot_agent

_LAUNCHER = """#!{python} -I
import sys
sys.path.insert(0, "{place}")
from pilot_agent.cli import main
sys.exit(main())
"""


def make_version(directory: Path, version: str) -> Path:
    """Copy the agent and stamp it; return its program."""
    packages = Path(pilot_agent.__file__).parents[1]
    for name in ("actors", "pilot_agent", "proto_gen"):
        # What is being compiled there just now has a name with a number, and is gone in a moment.
        shutil.copytree(packages / name, directory / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    (directory / "pilot_agent" / "_stamp.py").write_text(f"version = {version!r}\n")
    program = directory / "pilot-agent"
    program.write_text(_LAUNCHER.format(python=sys.executable, place=directory))
    program.chmod(0o755)
    return program
