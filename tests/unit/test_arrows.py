"""What `.importlinter` cannot hold by itself: that it names every topic, and what programs in bin import."""

import ast
import configparser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OURS = {"actors", "pilot_agent", "proto_gen", "lab", "tests", "benchmarks"}


def contract(name: str, key: str) -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / ".importlinter", encoding="utf-8")
    return set(parser[f"importlinter:contract:{name}"][key].replace(":", " ").split())


def topics() -> set[str]:
    found = (REPOSITORY / "pilot_agent").iterdir()
    names = {path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").is_file()}
    return {f"pilot_agent.{name}" for name in names - {"__init__", "_stamp", "cli"}}


def programs() -> list[Path]:
    files = [path for path in (REPOSITORY / "bin").iterdir() if path.is_file()]
    return [path for path in files if "python" in path.read_text(encoding="utf-8").partition("\n")[0]]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_every_topic_has_its_layer_and_may_not_know_an_actor() -> None:
    assert topics() == {one for one in contract("arrows", "layers") if one in topics()}
    assert topics() == contract("no_actors_in_topics", "source_modules")


@pytest.mark.parametrize("program", programs(), ids=lambda path: path.name)
def test_a_program_in_bin_knows_the_command_line_alone(program: Path) -> None:
    assert {name for name in imported(program) if name.partition(".")[0] in OURS} <= {"pilot_agent.cli"}


def test_the_agents_program_is_among_those_looked_at() -> None:
    assert "pilot-agent" in {path.name for path in programs()}
