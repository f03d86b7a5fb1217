"""Cleaning up: everything of ours goes, whichever release made it, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capture_pod import BACKENDS, INJECTED, agent, apply, capture_pod, rules
from tests.support.netns import Namespace


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with capture_pod() as namespace:
        yield namespace


OLD_RULES = """
-t nat -N ISTIO_OUTPUT
-t nat -N ISTIO_REDIRECT
-t nat -N ISTIO_INBOUND
-t mangle -N ISTIO_INBOUND
-t nat -A PREROUTING -p tcp -j ISTIO_INBOUND
-t nat -A ISTIO_INBOUND -p tcp --dport 22 -j RETURN
-t mangle -A PREROUTING -p tcp -j ISTIO_INBOUND
-t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT
-t nat -A ISTIO_OUTPUT -j ISTIO_REDIRECT
-t nat -A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j RETURN
-t nat -A OUTPUT -p udp --dport 53 -m owner --gid-owner 1337 -j RETURN
-t nat -A OUTPUT -p udp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-port 15053
-t raw -A OUTPUT -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-t raw -A OUTPUT -p udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-t raw -A OUTPUT -p udp --dport 53 -d 10.96.0.10/32 -j CT --zone 2
-t raw -A PREROUTING -p udp --sport 53 -d 10.96.0.10/32 -j CT --zone 1
"""


FOREIGN = """
-t nat -N DOCKER
-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-t nat -A DOCKER -i docker0 -j RETURN
-t nat -A PREROUTING -i foreign0 -j RETURN
-t nat -A OUTPUT -p udp --dport 54 -j REDIRECT --to-port 15053
-t mangle -A OUTPUT -p tcp -m mark --mark 7 -j ACCEPT
-t raw -A OUTPUT -p udp --dport 5353 -j CT --zone 1
-t filter -A INPUT -p tcp --dport 9 -j DROP
"""


@pytest.mark.root
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_old_cleanup_command_removes_what_old_releases_made_and_nothing_else(
    pod: Namespace, backend: str
) -> None:
    for line in FOREIGN.split("\n")[1:-1]:
        pod.run(f"iptables-{backend}", *line.split())
    foreign = rules(pod)
    for line in OLD_RULES.split("\n")[1:-1]:
        pod.run(f"iptables-{backend}", *line.split())

    ended = agent(pod, command="istio-clean-iptables")

    assert ended.returncode == 0, ended.stdout
    assert rules(pod) == foreign
    assert agent(pod, "-u", "1337", "--redirect-dns", command="istio-clean-iptables").returncode == 0
    assert rules(pod) == foreign


@pytest.mark.root
def test_the_old_cleanup_command_shows_the_old_list_in_a_dry_run(pod: Namespace) -> None:
    said = agent(pod, "--dry-run", "-u", "7", "-g", "8", command="istio-clean-iptables").stdout
    lines = [line.rpartition("\t")[2] for line in said.splitlines()]

    assert lines[0] == "iptables -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND"
    assert lines[16] == "iptables -t nat -X ISTIO_IN_REDIRECT"
    assert lines[17].startswith("ip6tables ")
    assert lines[-1] == "ip6tables-save"
    assert len(lines) == 36


@pytest.mark.root
def test_a_cleanup_of_nothing_is_no_error(pod: Namespace) -> None:
    before = rules(pod)

    apply(pod, "--cleanup-only")
    apply(pod, "--cleanup-only", "--native-nftables")
    assert agent(pod, command="istio-clean-iptables").returncode == 0

    assert rules(pod) == before


@pytest.mark.root
def test_a_mark_of_0_that_another_agent_took_is_cleaned_too(pod: Namespace, tmp_path: Path) -> None:
    before = rules(pod)
    words = (*INJECTED, "-m", "TPROXY", "-t", "0", "--dry-run")
    agent(pod, *words, environment={"DRY_RUN_FILE_PATH": str(tmp_path / "rules")})
    lines = (tmp_path / "rules").read_text().splitlines()
    tables = "\n".join(line for line in lines if not line.endswith("-save")).split("COMMIT")[:-1]
    for number, table in enumerate(tables):
        family = "iptables" if number < len(tables) // 2 else "ip6tables"
        pod.run(f"{family}-nft-restore", "--noflush", text=f"{table.strip()}\nCOMMIT\n")
    for version in ("-4", "-6"):
        pod.run("ip", version, "rule", "add", "fwmark", "0/0xffffffff", "lookup", "133")
        pod.run("ip", version, "route", "add", "local", "default", "dev", "lo", "table", "133")
    assert "lookup 133" in "".join(rules(pod))

    apply(pod, "--cleanup-only")

    assert rules(pod) == before
