"""Room for a second Envoy: trees of both versions of the memory controller, and this machine's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot_agent.envoy import memory_guard
from pilot_agent.envoy.memory_guard import Group, groups, needed_bytes, refusal

MIB = 1 << 20
PID = 42


def tree(root: Path, cgroup: str, files: dict[str, str], envoy_mib: int = 100) -> Path:
    """Make a file system with these files, and an Envoy of that size."""
    status = f"Name:\tenvoy\nVmRSS:\t9 kB\nRssAnon:\t{envoy_mib << 10} kB\nRssFile:\t9 kB\nRssShmem:\t0 kB\n"
    for name, text in {"proc/self/cgroup": cgroup, f"proc/{PID}/status": status, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(folder: str, limit: str, current_mib: int, inactive_mib: int) -> dict[str, str]:
    stat = f"anon 1\nfile 9\ninactive_anon 7\nactive_file 3\ninactive_file {inactive_mib * MIB}\n"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": f"{current_mib * MIB}\n",
        f"{folder}/memory.stat": stat,
    }


def v1(folder: str, limit: str, usage_mib: int, inactive_mib: int) -> dict[str, str]:
    stat = f"cache 5\ninactive_file 1\ntotal_cache 9\ntotal_inactive_file {inactive_mib * MIB}\n"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": f"{usage_mib * MIB}\n",
        f"{folder}/memory.stat": stat,
    }


V2_MAX = f"{512 * MIB}\n"
TREES = {
    "v2, a container whose mount is its own group": ("0::/\n", v2("sys/fs/cgroup", V2_MAX, 300, 100)),
    "v2, a path below the mount": (
        "0::/kubepods/pod7/abc\n",
        v2("sys/fs/cgroup/kubepods/pod7/abc", V2_MAX, 300, 100)
        | v2("sys/fs/cgroup/kubepods/pod7", "max\n", 400, 0),
    ),
    "v2, only the pod has a limit": (
        "0::/kubepods/pod7/abc\n",
        v2("sys/fs/cgroup/kubepods/pod7/abc", "max\n", 1, 0)
        | v2("sys/fs/cgroup/kubepods/pod7", V2_MAX, 300, 100),
    ),
    "v2, a path of the host's that is not to be seen": (
        "0::/kubepods/pod7/abc\n",
        v2("sys/fs/cgroup", V2_MAX, 300, 100),
    ),
    "v1": (
        "5:cpu,cpuacct:/a\n4:memory:/docker/abc\n0::/x\n",
        v1("sys/fs/cgroup/memory/docker/abc", V2_MAX, 300, 100)
        | v1("sys/fs/cgroup/memory", "9223372036854771712\n", 9000, 0),
    ),
    "v1, memory with another controller, and v2 beside it": (
        "4:memory,hugetlb:/abc\n0::/y\n",
        v1("sys/fs/cgroup/memory", V2_MAX, 300, 100) | {"sys/fs/cgroup/unified/cgroup.procs": ""},
    ),
}


@pytest.mark.parametrize(("cgroup", "files"), TREES.values(), ids=TREES.keys())
def test_the_working_set_is_usage_less_inactive_file_pages(
    tmp_path: Path, cgroup: str, files: dict[str, str]
) -> None:
    (found,) = groups(tree(tmp_path, cgroup, files))
    assert (found.limit_bytes, found.working_set_bytes) == (512 * MIB, 200 * MIB)


def test_the_tightest_group_decides(tmp_path: Path) -> None:
    files = v2("sys/fs/cgroup/pod/app", f"{900 * MIB}\n", 200, 0) | v2(
        "sys/fs/cgroup/pod", f"{310 * MIB}\n", 250, 0
    )
    said = refusal(PID, tree(tmp_path, "0::/pod/app\n", files))
    assert said == (
        "not enough memory for a second Envoy: needed 116 MiB, free 60 MiB "
        f"(limit 310 MiB, working set 250 MiB, cgroup {tmp_path}/sys/fs/cgroup/pod)"
    )


@pytest.mark.parametrize(
    ("current_mib", "inactive_mib", "refused"), [(384, 0, False), (385, 0, True), (500, 200, False)]
)
def test_both_envoys_and_a_margin_must_fit(
    tmp_path: Path, current_mib: int, inactive_mib: int, refused: bool
) -> None:
    root = tree(tmp_path, "0::/\n", v2("sys/fs/cgroup", f"{500 * MIB}\n", current_mib, inactive_mib))
    assert bool(refusal(PID, root)) is refused


def test_an_envoy_at_sixty_percent_of_the_limit_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", v2("sys/fs/cgroup", f"{1000 * MIB}\n", 620, 0), envoy_mib=600)
    assert refusal(PID, root)


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "4:memory:/gone\n", "7:cpu:/a\n"])
def test_where_there_is_no_limit_nothing_is_refused(tmp_path: Path, cgroup: str) -> None:
    assert refusal(PID, tree(tmp_path, cgroup, {})) == ""


def test_the_margin_is_a_tenth_and_at_least_16_mib() -> None:
    assert needed_bytes(50 * MIB) == 66 * MIB
    assert needed_bytes(1000 * MIB) == 1100 * MIB


def test_a_process_s_own_memory_is_read_without_file_pages() -> None:
    own = memory_guard.private_bytes(Path("/proc/self/status"))
    assert 5 * MIB < own < 2000 * MIB
    assert memory_guard.private_bytes(Path("/proc/0/status")) == 0


@pytest.fixture
def cgroup() -> Iterator[tuple[Path, str, str]]:
    """Make a memory cgroup of this machine's; yield its folder and the names of limit and usage."""
    v1_folder, v2_folder = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    own = next(
        (
            line.split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if ":memory:" in line
        ),
        "",
    )
    if v1_folder.is_dir():
        parent = next((at for at in (v1_folder / own.lstrip("/"), v1_folder) if at.is_dir()), v1_folder)
        names = "memory.limit_in_bytes", "memory.usage_in_bytes"
    else:
        parent, names = v2_folder, ("memory.max", "memory.current")
    folder = parent / f"pilot-agent-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / names[0]).write_text(str(256 * MIB))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield folder, *names
    folder.rmdir()


def test_the_limit_of_a_real_cgroup_is_seen_by_a_process_in_it(cgroup: tuple[Path, str, str]) -> None:
    folder, _, _ = cgroup
    program = (
        f"import os; open('{folder}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from pilot_agent.envoy.memory_guard import groups, refusal\n"
        "held = bytearray(b'x') * (150 << 20)\n"
        "print(min(group.limit_bytes for group in groups()), bool(refusal(os.getpid())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.split() == [str(256 * MIB), "True"]


def test_a_group_knows_what_is_free() -> None:
    assert Group("x", 10, 4).free_bytes == 6
