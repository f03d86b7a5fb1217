"""The list of Debian packages that makes the same commit the same image."""

import re

import pytest

from tests.support.agent import REPOSITORY

IMAGE = REPOSITORY / "deploy/image"


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_every_package_that_is_asked_for_has_its_version(architecture: str) -> None:
    rows = [
        line.split()
        for line in (IMAGE / "packages.lock").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert all(len(row) == 3 for row in rows)
    names = {name for machine, name, _ in rows if machine == architecture}
    assert names >= set((IMAGE / "packages.txt").read_text().split())


def test_the_moment_is_one_of_the_snapshot_service() -> None:
    assert re.search(r"^# snapshot: \d{8}T\d{6}Z$", (IMAGE / "packages.lock").read_text(), re.MULTILINE)
