"""The image that the actors are forked from has no asyncio, and still is whole for who wants it."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_tree_loads_without_asyncio_and_heavy_modules() -> None:
    program = """
import sys
from actors.runtime.warm import prepare
prepare()
import actors.tree
heavy = (
    "asyncio.events", "cryptography", "google.protobuf", "grpc", "yaml", "http.client", "http.server", "email"
)
print([name for name in heavy if name in sys.modules])
"""
    assert run(program) == "[]"


def test_whoever_touches_a_placeholder_gets_the_real_module() -> None:
    program = """
from actors.runtime.warm import prepare
prepare()
import asyncio
import asyncio.events
async def answer(): return 42
print(asyncio.run(answer()), asyncio.events.get_event_loop_policy is not None)
"""
    assert run(program) == "42 True"


def test_no_thread_runs_before_the_first_fork() -> None:
    program = """
from actors.runtime.warm import prepare
prepare()
import actors.tree
from actors.runtime.process import thread_count
print(thread_count())
"""
    assert run(program) == "1"
