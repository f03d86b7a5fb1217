"""An Envoy that is deaf to everything but SIGKILL ends with the supervisor."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_for

PYTHON = Path("/usr/bin/python3")  # one that every user may execute
DEAF = "import ctypes, signal, time; ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)\n"
DEAF += "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
SUPERVISOR = """
import sys, time
from actors.messages.control import SpawnEnvoy
from actors.runtime import process
from actors.runtime.envoys import EnvoyKeeper
process.keep_secrets()
argv, uid = (sys.argv[1], "-I", "-S", "-c", sys.argv[2]), int(sys.argv[3])
wish = SpawnEnvoy(generation=0, argv=argv, environment={}, uid=uid, gid=uid)
print(EnvoyKeeper().spawn(wish).pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="wants a Python of the system's")
@pytest.mark.parametrize("uid", [-1, 65_534], ids=["own uid", "another uid"])
def test_who_sets_a_death_signal_of_its_own_is_killed_all_the_same(uid: int) -> None:
    if uid >= 0 and os.geteuid() != 0:
        pytest.skip("wants root, to change the user")
    command = [sys.executable, "-c", SUPERVISOR, str(PYTHON), DEAF, str(uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        said = [supervisor.stdout.readline().strip() for _ in range(2)]
        envoy = psutil.Process(int(next(word for word in said if word != "deaf")))
        assert "deaf" in said
        assert uid < 0 or envoy.uids().real == uid
        supervisor.send_signal(signal.SIGKILL)
        wait_for(lambda: not envoy.is_running() or envoy.status() == psutil.STATUS_ZOMBIE, within_s=2)
