"""What is in the checkout is in the wheel: setuptools finds packages by their `__init__.py`."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["actors", "pilot_agent", "proto_gen"])
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    folders = {path.parent for path in (REPOSITORY / package).rglob("*.py")}
    assert folders
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
