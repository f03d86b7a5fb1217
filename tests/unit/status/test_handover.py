"""A server killed under load: its successor takes over the same socket and nobody is refused."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from pilot_agent.status import StatusOptions, open_listener
from tests.support.http_peer import closed_port
from tests.support.status_client import get

SERVER = """
import sys
from pilot_agent.status.listener import StatusListener, adopt
from pilot_agent.status.messages import Answer
from pilot_agent.status.server import StatusServer
listener = adopt(StatusListener(descriptor=int(sys.argv[1])))
print("serving", flush=True)
StatusServer(listener, lambda request: Answer(body=request.path.encode())).serve()
"""


def start(descriptor: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(descriptor)],
        pass_fds=[descriptor],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"serving\n"
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def test_new_connections_wait_for_the_successor_of_a_killed_server() -> None:
    listener = open_listener(StatusOptions(port=closed_port()))
    assert listener is not None
    port = listener.getsockname()[1]
    served, refused = [0], list[OSError]()
    enough = threading.Event()

    def load() -> None:
        while not enough.is_set():
            try:
                assert get(port, "/x").body == b"/x"
                served[0] += 1
            except ConnectionResetError:
                continue  # was being served by the one that was killed; a prober's next one is not refused
            except ConnectionError as error:
                if "closed before" in str(error):
                    continue  # the same
                refused.append(error)

    with listener:
        server = start(listener.fileno())
        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        try:
            for _ in range(3):
                end(server)
                server = start(listener.fileno())
                before = served[0]
                while served[0] < before + 20:
                    assert thread.is_alive()
        finally:
            enough.set()
            thread.join(10)
            end(server)
    assert refused == []
