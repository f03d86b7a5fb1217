"""The worker that folds a file: what it writes is what the file amounted to, and it takes little memory."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pilot_agent.wire import text_field
from pilot_agent.xds.known_good import files, records
from pilot_agent.xds.known_good.content import read_content
from pilot_agent.xds.requests import Variant
from tests.support.xds_messages import CDS, response

MB = 1_000_000
_MEASURED = """
import resource, sys
from pilot_agent.xds.known_good.files import compact
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
compact(sys.stdin.buffer.read())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def cluster(name: str, size_bytes: int) -> bytes:
    return text_field(1, name) + text_field(2, "x" * size_bytes)


def written(path: Path, variant: Variant, times: int, size_bytes: int) -> files.CompactionWanted:
    """Write a file of so many responses, each with twenty resources of its own."""
    header = records.Header(identity=("n",), variant=variant, type_url=CDS)
    size = 0
    for number in range(times):
        named = {f"{number}-{at}": cluster(f"{number}-{at}", size_bytes // 20) for at in range(20)}
        body = response(variant, CDS, "n", str(number), **named).SerializeToString()
        if number:
            size = files.append(path, size, records.ACCEPTED, body)
        else:
            size = files.write_whole(path, header, [body])
    return files.CompactionWanted(str(path), size)


@pytest.mark.parametrize("variant", ["sotw", "delta"])
def test_a_folded_file_amounts_to_the_same(tmp_path: Path, variant: Variant) -> None:
    path = tmp_path / "type"
    wanted = written(path, variant, 3, 2000)
    done = msgspec.msgpack.decode(files.compact(msgspec.msgpack.encode(wanted)), type=files.Compacted)
    folded = files.compacted_path(path).read_bytes()
    assert len(folded) == done.size
    header, amounts_to = read_content(folded)
    before_header, before = read_content(path.read_bytes())
    assert header == before_header
    assert amounts_to.version == before.version
    assert {name: one.body for name, one in amounts_to.resources.items()} == {
        name: one.body for name, one in before.resources.items()
    }


def test_folding_holds_one_record_at_a_time(tmp_path: Path) -> None:
    wanted = written(tmp_path / "type", "delta", 4, 20 * MB)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED],
        input=msgspec.msgpack.encode(wanted),
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert int(done.stdout) * 1024 < 2.5 * 20 * MB  # with everything in memory it was above ten times
