"""What an error in a thread of an actor's process means."""

import subprocess
import sys

import pytest

# Here gRPC's thread meets a closed channel for certain; in the agent, now and then while istiod restarts.
CLOSED_CHANNEL = """
channel = grpc.insecure_channel("127.0.0.1:1")
channel.close()
channel.subscribe(print)
"""
OWN_ERROR = """
threading.Thread(target=int, args=("no number",)).start()
"""
RUN = """
import threading, grpc
from actors.runtime import child
threading.excepthook = child._thread_died
{work}
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)
print("lived on")
"""


@pytest.mark.parametrize(("work", "status"), [(CLOSED_CHANNEL, 0), (OWN_ERROR, 1)], ids=["grpc's", "own"])
def test_an_error_in_a_thread_ends_the_process_but_not_that_of_grpc_s_watch_of_a_closed_channel(
    work: str, status: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", RUN.format(work=work)], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == status
    assert ("lived on" in ended.stdout) is (status == 0)
    assert ("Traceback" in ended.stdout) is (status == 1)
