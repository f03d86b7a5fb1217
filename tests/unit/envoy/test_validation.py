"""The run of `envoy --mode validate`; what a real Envoy says to it is in test_launch.py."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.process_tree import wait_ended
from tests.support.waiting import wait_for

ASK = """
from pilot_agent.envoy.validation import refusal
print(refusal(("/bin/sh", "-c", "echo $$ > pid.new; mv pid.new pid; exec sleep 60"), {}, timeout_s=60))
"""


def test_an_agent_that_is_killed_leaves_no_validation_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}{ASK}"], cwd=tmp_path
    ) as asker:
        pid = tmp_path / "pid"
        wait_for(pid.exists, what="the validation's start")
        validation = psutil.Process(int(pid.read_text()))
        asker.kill()
        left = wait_ended([validation])
        for process in left:
            process.kill()
        assert left == []
