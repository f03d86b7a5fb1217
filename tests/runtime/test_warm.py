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
heavy = ("asyncio.events", "cryptography", "google.protobuf", "yaml", "http.client", "http.server", "email")
print([name for name in heavy if name in sys.modules], "grpc._server" in sys.modules)
"""
    assert run(program) == "[] True"


def test_all_of_grpc_that_is_imported_late_is_there_by_its_name() -> None:
    program = """
import sys
from actors.runtime import warm
warm.prepare()
print([name for name in warm._USED_LATER if name not in sys.modules])
"""
    assert run(program) == "[]"


def test_an_inner_module_that_a_release_has_no_longer_does_not_keep_the_agent_from_starting() -> None:
    program = """
from actors.runtime import warm
warm._USED_LATER = ("grpc._gone", "grpc._server")
warm.prepare()
import sys
print("grpc._server" in sys.modules)
warm._USED_LATER = ("no_such_library._server",)
try:
    warm.prepare()
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(program) == "True\nno_such_library"


def test_whoever_touches_a_placeholder_gets_the_real_module() -> None:
    program = """
from actors.runtime.warm import prepare
prepare()
import asyncio, grpc.aio
import asyncio.events
async def answer(): return 42
print(asyncio.run(answer()), callable(grpc.aio.server), asyncio.events.get_event_loop_policy is not None)
"""
    assert run(program) == "42 True True"


def test_no_thread_runs_before_the_first_fork() -> None:
    program = """
from actors.runtime.warm import prepare
prepare()
import actors.tree
from actors.runtime.process import thread_count
print(thread_count())
"""
    assert run(program) == "1"
