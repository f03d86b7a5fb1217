"""The start imports no more than it needs, and nobody is the worse for it."""

import subprocess
import sys

import pytest

_HEAVY = (
    "typing_extensions",
    "inspect",
    "platform",
    "yaml",
    "psutil",
    "tenacity",
    "pilot_agent.bootstrap.template",
)


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "CLOUD_PLATFORM": "none", "CA_ADDR": "istiod.example:15010"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def test_the_settings_are_built_without_heavy_modules() -> None:
    program = f"""
import os, sys
from types import ModuleType
from pilot_agent.cli import proxy
from pilot_agent.cli.lean_imports import keep_imports_lean
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig.flags import ProxyFlags
keep_imports_lean()
os.environ["PROXY_CONFIG"] = '{{"controlPlaneAuthPolicy": "NONE", "discoveryAddress": "istiod.a:15010"}}'
proxy._settings(Environment(os.environ), ProxyFlags())
print([name for name in {_HEAVY!r} if type(sys.modules.get(name)) is ModuleType])
"""
    keep = f"""
from pilot_agent.cli.lean_imports import keep_imports_lean
keep_imports_lean()
{program}"""
    assert _run(keep) == "[]"


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("import typing_extensions; print(typing_extensions.TypeAliasType.__name__)", "TypeAliasType"),
        ("from typing_extensions import override; print(override(len) is len)", "True"),
        ("import platform; print(platform.system(), bool(platform.python_version()))", "Linux True"),
        ("from pathlib import Path; print(Path('/a b').as_uri())", "file:///a%20b"),
        ("import urllib.parse; print(urllib.parse.urlsplit('http://h:1/x').port)", "1"),
        ("import subprocess; print(subprocess.run(['true']).returncode)", "0"),
        ("from pathlib import PureWindowsPath as W; print(W('c:/a').drive)", "c:"),
        ("import msgspec.inspect as i; print(i.type_info(int))", "IntType("),
        ("import textwrap; print(textwrap.indent('a', ' b'))", "ba"),
        ("import tokenize; print(tokenize.NAME)", "1"),
    ],
    ids=str,
)
def test_whoever_uses_a_module_that_was_kept_out_gets_the_real_one(use: str, expected: str) -> None:
    found = _run(f"from pilot_agent.cli.lean_imports import keep_imports_lean\nkeep_imports_lean()\n{use}")
    assert found.startswith(expected)
