"""docs/COMPATIBILITY.md names everything that the reference reads, and the sources do what it says of each.

`reference-names.json` was made by hand from the reference's documentation, not from these sources.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot_agent.cli.global_flags import GLOBAL_FLAGS
from pilot_agent.cli.registry import all_commands

ROOT = Path(__file__).parents[3]
NAMES = json.loads((ROOT / "tests/data/reference-names.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/COMPATIBILITY.md").read_text(encoding="utf-8")
TABLES, _, LISTS = PAGE.partition("\n## Every name\n")
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("pilot_agent", "actors")
    for path in sorted((ROOT / folder).rglob("*.py"))
)
PREFIXES = ("ISTIO_META_", "ISTIO_METAJSON_", "CA_HEADER_", "XDS_HEADER_")


def section(name: str) -> str:
    return LISTS.partition(f"\n### {name}\n")[2].partition("\n### ")[0]


def listed(text: str, word: str) -> set[str]:
    """Return the names of all paragraphs that begin with this word."""
    paragraphs = (part for part in text.split("\n\n") if part.strip().startswith(f"{word}: "))
    return {name for part in paragraphs for name in re.findall(r"`([^`]+)`", part)}


def is_read(name: str) -> bool:
    """Return whether the sources have this variable, or what is behind its prefix, as a text."""
    known = {name, *(name.removeprefix(prefix) for prefix in PREFIXES if name != prefix)}
    return any(f'"{each}' in SOURCES for each in known) or (
        name.lower().replace("_", "-") in NAMES["flags"]["istio-iptables"]
    )


VARIABLES = section("Variables")
SAME, DIFFERS, ABSENT = (listed(VARIABLES, word) for word in ("The same", "Differs", "Absent"))


def test_each_variable_is_named_once_as_the_same_different_or_absent() -> None:
    kinds = ("variables", "capture_variables", "unused_variables", "old_variables")
    expected = [name for kind in kinds for name in NAMES[kind]]
    assert sorted([*SAME, *DIFFERS, *ABSENT]) == sorted(expected)


@pytest.mark.parametrize("name", sorted(SAME | DIFFERS))
def test_a_variable_that_is_said_to_be_there_is_read(name: str) -> None:
    assert is_read(name)


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_a_variable_that_is_said_to_be_absent_is_not_read(name: str) -> None:
    assert not re.search(rf'environment\.\w+\(\s*"{name}"', SOURCES)


@pytest.mark.parametrize("name", sorted(DIFFERS | listed(section("Files"), "Differs")))
def test_what_differs_is_told_in_a_table(name: str) -> None:
    short = name.rsplit("/", 1)[-1]
    rows = [line for line in TABLES.splitlines() if line.startswith("| ")]
    standard_template = "the standard template's own path"
    assert any(short in row or (short.endswith("_tmpl.json") and standard_template in row) for row in rows)


def commands() -> Iterator[tuple[str, set[str]]]:
    yield "pilot-agent", {flag.name for flag in GLOBAL_FLAGS}
    for command in all_commands():
        yield command.name, {flag.name for flag in command.own_flags}


def test_each_flag_is_named_and_taken() -> None:
    of_command = dict(commands())
    text = section("Flags")
    for name, flags in NAMES["flags"].items():
        own = text.partition(f"`{name}`\n")[2].partition("\n\n`")[0]
        assert listed(own, "The same") == {f"--{flag}" for flag in flags}
        assert set(flags) <= of_command[name] | {"no-descriptions"}


def test_each_port_and_each_file_is_named_and_in_the_sources() -> None:
    ports, files = section("Ports"), section("Files")
    assert listed(ports, "The same") | listed(ports, "Absent") == {str(port) for port in NAMES["ports"]}
    assert listed(files, "The same") | listed(files, "Differs") == set(NAMES["files"])
    for name in listed(ports, "The same") | listed(files, "The same"):
        assert name.rsplit("/", 1)[-1] in SOURCES, name
