"""Who may take over from whom, where nobody can tell; the rest is tried with Envoys in tests/actors."""

import os
import sys
from pathlib import Path

from pilot_agent.envoy.hot_restart_version import identity, mismatch


def test_the_same_file_is_not_asked(tmp_path: Path) -> None:
    here = tmp_path / "envoy"
    here.symlink_to(Path(sys.executable).resolve())
    assert identity(str(here)) == identity(f"/proc/{os.getpid()}/exe")
    assert mismatch(str(here), os.getpid()) == ""


def test_what_does_not_tell_its_version_is_not_refused_for_it(tmp_path: Path) -> None:
    other = tmp_path / "envoy"
    for script in ("echo 11.104", "exit 1", "exit 0"):
        other.write_text(f"#!/bin/sh\n{script}\n")
        other.chmod(0o755)
        assert mismatch(str(other), os.getpid()) == ""  # this Python has no such option
    assert mismatch(str(tmp_path / "nothing"), os.getpid()) == ""
    assert identity(str(tmp_path / "nothing")) is None
