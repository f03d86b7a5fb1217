"""Makes `tests` and `lab` importable, behind whatever is installed: tox tests the wheel, not the checkout."""

import secrets
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=45.0, help="how long the chaos lasts")
    parser.addoption("--seed", type=int, default=secrets.randbelow(1 << 32), help="of the chaos")
