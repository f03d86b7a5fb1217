"""What the small commands load: hooks start them again and again, so the list is held."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.http_peer import HttpPeer, reply

REPOSITORY = Path(__file__).parents[3]
_COMMON = """cli cli.command cli.commands cli.errors cli.flags cli.global_flags cli.output cli.parser
cli.program cli.registry cli.resolve gotext record"""
COMMON = frozenset(_COMMON.split())
"""Our own modules that each command may load, below `pilot_agent`."""

_HEAVY = """asyncio collections contextlib ctypes dataclasses datetime email encodings.idna enum functools
hashlib http importlib.metadata inspect json logging operator pathlib random re shutil site ssl subprocess
tempfile threading traceback types typing urllib"""
HEAVY = frozenset(_HEAVY.split())


def loaded_by(*words: str) -> set[str]:
    """Return what is loaded when a command has ended well, started as the image's launcher does."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from pilot_agent.cli import main;"
        f"status = main({list(words)!r}); sys.stderr.write(' '.join(sys.modules)); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stderr.split())


def ours(modules: set[str]) -> set[str]:
    return {name.partition(".")[2] for name in modules if name.startswith("pilot_agent.")}


def test_version_loads_the_command_line_and_nothing_else() -> None:
    modules = loaded_by("version")
    assert ours(modules) <= COMMON | {"cli.commands.version", "version"}
    assert modules.isdisjoint(HEAVY)


def test_request_loads_a_socket_beside_it() -> None:
    with peer_on_an_allowed_port() as peer:
        modules = loaded_by("request", f"--debug-port={peer.port}", "GET", "stats")
    assert ours(modules) <= COMMON | {"cli.commands.request", "cli.fetch", "cli.response", "cli.url"}
    assert modules.isdisjoint(HEAVY)


def peer_on_an_allowed_port() -> HttpPeer:
    for port in (15000, 15004, 15020, 15021):
        try:
            return HttpPeer(lambda _: reply("200 OK", b"x"), port=port)
        except OSError:
            continue  # an agent runs on this machine
    pytest.skip("all ports that `request` may ask are taken on this machine")
