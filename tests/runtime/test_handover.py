"""What one supervisor leaves to the next: written, executed over, read."""

import os
import subprocess
import sys

import msgspec
import pytest

from actors.runtime import handover
from actors.runtime.handover import HandedActor, Handover, HandoverError
from tests.support.agent import REPOSITORY

CODE = """
import os, sys
from actors.runtime import handover
taken = handover.take(os.environ)
print(os.getpid(), taken.reason, os.read(taken.kept[0], 99).decode(), os.get_inheritable(taken.kept[0]))
print(sorted(name for name in os.environ if "PILOT" in name))
"""
AWAY = """
import os, signal, sys
from actors.runtime.handover import Handover, Launch, execute
read, write = os.pipe()
os.write(write, b"still there")
print(os.getpid(), flush=True)
nothing = dict.fromkeys(("actors", "channels", "envoys", "envoys_ended", "workers"), ())
state = Handover(**nothing, kept=(read,), back=None, reason="a reason")
try:
    execute(Launch((sys.argv[1], "-c", sys.argv[2]), dict(os.environ)), state)
except FileNotFoundError:
    print("not there", os.get_inheritable(read), len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""


def empty(**more: object) -> Handover:
    nothing = dict.fromkeys(("actors", "channels", "envoys", "envoys_ended", "workers", "kept"), ())
    return msgspec.convert({**nothing, "back": None, **more}, Handover)


def executed(program: str) -> list[str]:
    command = [sys.executable, "-c", AWAY, program, CODE]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.splitlines()


def test_the_same_process_goes_on_with_the_same_descriptors() -> None:
    before, after, variables = executed(sys.executable)
    assert after == f"{before} a reason still there False"
    assert variables == "[]"


def test_a_program_that_cannot_be_executed_leaves_everything_as_it_was() -> None:
    assert executed("/no/such/program")[1:] == ["not there False 0"]


def test_an_ordinary_start_takes_nothing() -> None:
    assert handover.take({}) is None


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", msgspec.msgpack.encode(empty(format=99))], ids=["empty", "garbage", "later"]
)
def test_what_another_version_left_in_a_form_that_is_not_known_is_refused(data: bytes) -> None:
    memory = os.memfd_create("handover")
    os.write(memory, data)
    with pytest.raises(HandoverError, match="state of the agent before"):
        handover.take({handover.VARIABLE: str(memory)})


def test_descriptors_of_actors_that_were_never_started_are_not_passed() -> None:
    state = empty(
        actors=(
            HandedActor(role="dns", incarnation=0, notebook=7),
            HandedActor(role="cert", incarnation=2, notebook=8, pid=1, control=9),
        )
    )
    assert state.descriptors() == [7, 8, 9]
