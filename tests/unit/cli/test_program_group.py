"""The set-gid bit of the program file, which the kernel ignores on scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
CODE = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pilot_agent.cli.errors import CliError
from pilot_agent.cli.program_group import take_group_of_program
try:
    take_group_of_program(sys.argv[1])
except CliError as error:
    print(error)
print(os.getresuid(), os.getresgid())
"""


def ended_as(program: Path, *prefix: str) -> list[str]:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", CODE, str(program), str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("wants root, to be in another group")
    file = tmp_path / "pilot-agent"
    file.touch()
    os.chown(file, 0, 4242)
    file.chmod(0o2755)
    return file


def test_root_takes_the_group_for_good(program: Path) -> None:
    assert ended_as(program) == ["(0, 0, 0) (4242, 4242, 4242)"]


def test_a_file_without_the_bit_changes_nothing(program: Path) -> None:
    program.chmod(0o755)
    assert ended_as(program) == ["(0, 0, 0) (0, 0, 0)"]


def test_root_that_may_not_change_its_group_is_told(program: Path) -> None:
    said = ended_as(program, "setpriv", "--bounding-set=-setgid", "--inh-caps=-setgid")
    assert said[0].startswith(f"cannot take the group 4242 of {program} (its set-gid bit is set): ")
    assert said[1] == "(0, 0, 0) (0, 0, 0)"


def test_a_program_that_is_no_file_changes_nothing(tmp_path: Path) -> None:
    ids = f"{os.getresuid()} {os.getresgid()}"
    assert ended_as(tmp_path / "absent") == [ids]
