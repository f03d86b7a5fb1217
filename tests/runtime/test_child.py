"""What an error in a thread of an actor's process means."""

import subprocess
import sys

RUN = """
import threading
from actors.runtime import child
threading.excepthook = child._thread_died
thread = threading.Thread(target=int, args=("no number",))
thread.start()
thread.join(10)
print("lived on")
"""


def test_an_error_in_a_thread_ends_the_process_and_is_told() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert "lived on" not in ended.stdout
    assert "Traceback" in ended.stdout
