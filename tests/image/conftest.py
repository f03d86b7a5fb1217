"""Root directories made by the image's own steps: tox run -e image.

PILOT_AGENT_IMAGE_ROOTS names a directory to make them in, or where they are already; a second run is
quick then.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import REPOSITORY, short_directory
from tests.support.pod import why_no_pods


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with `debug` and `distroless`."""
    if reason := why_no_pods() or ("" if shutil.which("debootstrap") else "wants debootstrap"):
        pytest.skip(reason)
    named = os.environ.get("PILOT_AGENT_IMAGE_ROOTS")
    directory = Path(named) if named else tmp_path_factory.mktemp("image")
    made = subprocess.run(
        [REPOSITORY / "deploy/image/make-root", directory],
        env=os.environ | {"PYTHON": sys.executable, "VERSION": "1.2.3", "REVISION": "abcdef"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return directory


@pytest.fixture
def workdir() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory
