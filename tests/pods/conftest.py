"""Whole pods in namespaces of their own: tox run -e pods."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import short_directory


@pytest.fixture
def workdir() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory
