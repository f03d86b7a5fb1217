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
from actors.tree import load_all
load_all()
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


def test_what_two_actors_use_is_loaded_before_the_fork_and_what_one_uses_is_not() -> None:
    program = """
import json, os, sys
from pilot_agent.cli.lean_imports import keep_imports_lean
keep_imports_lean()
from actors.runtime.warm import prepare
prepare()
import actors.tree as tree
import pilot_agent.health.options, pilot_agent.security.options, pilot_agent.security.work
import pilot_agent.xds.options  # as all that makes settings
from actors.runtime.roles import Role
before = set(sys.modules)
users = {}
for spec in tree.CHILD_SPECS:
    if spec.role is Role.DNS:
        continue  # seldom there
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        spec.load()
        os.write(write_end, json.dumps(sorted(set(sys.modules) - before)).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as pipe:
        for name in json.load(pipe):
            users.setdefault(name, []).append(spec.role.value)
tree.load_shared()
loaded = set(sys.modules) - before
wanted = {name for name, who in users.items() if len(who) > 1}
print(sorted(wanted - loaded), sorted(loaded & {name for name, who in users.items() if len(who) == 1}))
"""
    assert run(program) == "[] []"


def test_all_that_the_actors_load_can_be_looked_for_before_an_upgrade() -> None:
    program = """
from actors.runtime.warm import prepare
prepare()
import sys
from actors.tree import CHILD_SPECS, load_all
load_all()
print([spec.role for spec in CHILD_SPECS if spec.load().__module__ not in sys.modules])
"""
    assert run(program) == "[]"


def test_a_successor_of_the_upstream_half_finds_everything_loaded() -> None:
    program = """
from pilot_agent.cli.lean_imports import keep_imports_lean
keep_imports_lean()
from actors.runtime.warm import prepare
prepare()
import sys
import actors.tree as tree
from actors.runtime.process import thread_count
from actors.runtime.roles import Role
tree.load_shared()
tree.load_for_successors()
before = set(sys.modules)
spec = next(each for each in tree.CHILD_SPECS if each.role is Role.UPSTREAM_XDS)
sys.modules[spec.load().__module__].load()
print(sorted(set(sys.modules) - before), "ssl" in before, thread_count())
"""
    assert run(program) == "[] True 1"


def test_an_interpreter_without_tls_still_starts_the_others() -> None:
    program = """
from actors.runtime.warm import prepare
prepare()
import sys
sys.modules["ssl"] = None
import actors.tree as tree
tree.load_shared()
tree.load_for_successors()
print("actors.upstream_xds" in sys.modules)
"""
    assert run(program) == "True"
