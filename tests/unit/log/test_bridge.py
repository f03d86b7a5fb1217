"""Lines of libraries in our log; each test in a process of its own, for loggers belong to a process."""

import subprocess
import sys

import pytest

HEAD = """
import logging, sys
from pilot_agent import log
log.configure(output_level=sys.argv[1], as_json=False)
from pilot_agent.log.bridge import bridge_library_logs
bridge_library_logs()
bridge_library_logs()
"""


def logged(code: str, output_level: str = "") -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", HEAD + code, output_level],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stderr == ""
    return [line.partition("\t")[2] if "Z\t" in line else line for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("output_level", ["", "debug"])
def test_grpc_is_silent_unless_its_scope_is_on(output_level: str) -> None:
    assert logged("logging.getLogger('grpc._channel').error('x')", output_level) == []


def test_grpc_is_heard_at_the_level_of_its_scope() -> None:
    code = "grpc = logging.getLogger('grpc._server'); grpc.info('i %d', 1); grpc.warning('w %s', 'x')"
    assert logged(code, "grpc:warn") == ["warn\tgrpc\tw x"]
    assert logged(code, "grpc:debug") == ["info\tgrpc\ti 1", "warn\tgrpc\tw x"]


def test_a_pykka_error_is_an_error_line_with_its_traceback() -> None:
    code = """
import pykka
class Broken(pykka.ThreadingActor):
    def on_receive(self, message):
        raise RuntimeError("inside the actor")
ref = Broken.start()
ref.tell("x")
ref.actor_stopped.wait(10)
pykka.ActorRegistry.stop_all()
"""
    lines = logged(code)
    assert lines[0].startswith("error\tUnhandled exception in Broken")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: inside the actor"


def test_other_libraries_are_heard_from_a_warning_on() -> None:
    code = "other = logging.getLogger('other.part'); other.info('i'); other.warning('w'); logging.error('e')"
    assert logged(code) == ["warn\tw", "error\te"]


def test_a_wrong_format_string_of_a_library_does_not_end_its_work() -> None:
    code = "logging.raiseExceptions = False; logging.getLogger('other').error('%d', 'x')"
    assert logged(f"{code}; print('goes on')") == ["goes on"]
