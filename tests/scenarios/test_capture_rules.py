"""The rules in a real kernel: put in place once, replaced when asked, in the backend that is in use."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capture_pod import BACKENDS, CASES, INJECTED, agent, apply, capture_pod, children, rules
from tests.support.cli import PROGRAM
from tests.support.netns import Namespace, require_network_namespaces
from tests.support.waiting import wait_for


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with capture_pod() as namespace:
        yield namespace


@pytest.mark.root
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_a_second_run_changes_nothing_and_a_cleanup_without_flags_leaves_nothing(
    pod: Namespace, case: str, backend: str
) -> None:
    before = rules(pod)
    pod.run(
        f"iptables-{backend}", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9999", "-j", "ACCEPT"
    )
    foreign = rules(pod)

    apply(pod, *CASES[case], "--force-iptables-binary", backend)
    made = rules(pod)
    said = apply(pod, *CASES[case])
    assert rules(pod) == made
    assert "Found compatible residues" in said
    ours = [line for line in made if "ISTIO" in line]
    assert ours
    assert [line for line in ours if f"-{backend}-" not in line] == []

    apply(pod, "--cleanup-only")
    assert rules(pod) == foreign
    pod.run(f"iptables-{backend}", "-t", "nat", "-F", "OUTPUT")
    assert rules(pod) == before


@pytest.mark.root
@pytest.mark.parametrize(
    "case", sorted(CASES.keys() - {"odd words", "odd interfaces", "every interface"})
)  # nft spells otherwise
def test_native_rules_come_and_go_in_one_piece(pod: Namespace, case: str) -> None:
    before = rules(pod)
    apply(pod, *CASES[case], "--native-nftables")
    made = rules(pod), pod.run("nft", "list", "ruleset").stdout
    apply(pod, *CASES[case], "--native-nftables")
    assert (rules(pod), pod.run("nft", "list", "ruleset").stdout) == made

    apply(pod, "--native-nftables", "--cleanup-only")
    assert rules(pod) == before


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [("--force-iptables-binary", "nft"), ("--force-iptables-binary", "legacy"), ("--native-nftables",)],
    ids=["nft", "legacy", "native"],
)
def test_as_many_owner_groups_as_are_allowed_fit_into_the_rule(
    pod: Namespace, options: tuple[str, ...]
) -> None:
    before = rules(pod)
    environment = {"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(map(str, range(1000, 1064)))}

    first = agent(pod, *INJECTED, *options, environment=environment)
    assert first.returncode == 0, first.stdout
    made = rules(pod), pod.run("nft", "list", "ruleset").stdout
    assert "1063" in "".join(made[0]) + made[1]
    assert agent(pod, *INJECTED, *options, environment=environment).returncode == 0
    assert (rules(pod), pod.run("nft", "list", "ruleset").stdout) == made

    if options != ("--native-nftables",):
        assert agent(pod, *CASES["dns"], "--reconcile", environment=environment).returncode == 0
    apply(pod, "--cleanup-only")
    assert rules(pod) == before


@pytest.mark.root
def test_hundreds_of_other_rules_are_seen_with_few_processes_and_descriptors(pod: Namespace) -> None:
    first, second = (("-o", ",".join(map(str, range(at, at + 300)))) for at in (1000, 2000))
    apply(pod, *INJECTED, *first)
    made = rules(pod)
    words = (sys.executable, str(PROGRAM), "istio-iptables", *INJECTED, *second, "--dual-stack")

    ended = pod.run("sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *words, check=False)

    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "chains of ours hold other rules" in ended.stdout
    assert rules(pod) == made


@pytest.mark.root
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_rules_of_ours_are_replaced_only_when_asked(pod: Namespace, backend: str) -> None:
    words = (*INJECTED, "--force-iptables-binary", backend)
    apply(pod, *words)
    wanted = rules(pod)
    apply(pod, "--cleanup-only")
    apply(pod, *CASES["dns"], "-c", "net1", "--force-iptables-binary", backend)
    other = rules(pod)

    refused = agent(pod, *words)
    assert refused.returncode == 1
    assert "--reconcile" in refused.stdout
    assert rules(pod) == other

    said = apply(pod, *words, "--reconcile")
    steps = ("Setting up guardrails", "Performing cleanup", "Applying iptables", "Removing guardrails")
    places = [said.index(step) for step in steps]
    assert places == sorted(places)
    assert sorted(rules(pod)) == sorted(wanted)


def without_priority(found: list[str]) -> list[str]:
    return sorted(line.partition("\tfrom ")[2] or line for line in found)


@pytest.mark.root
@pytest.mark.parametrize(
    "options",
    [("--force-iptables-binary", "nft"), ("--force-iptables-binary", "legacy"), ("--native-nftables",)],
    ids=["nft", "legacy", "native"],
)
def test_routes_of_an_earlier_configuration_go_with_its_rules(
    pod: Namespace, options: tuple[str, ...]
) -> None:
    before = rules(pod)
    earlier = (*INJECTED, "-m", "TPROXY", "-t", "77", "-r", "200")
    for words in (
        INJECTED,
        (*INJECTED, "-m", "TPROXY", "-r", "200"),
        (*INJECTED, "-m", "TPROXY", "-t", "77", "-r", "201"),
    ):
        apply(pod, *words, *options)
        alone = without_priority(rules(pod))
        apply(pod, "--cleanup-only")
        apply(pod, *earlier, *options)

        apply(pod, *words, *options, "--reconcile")
        assert without_priority(rules(pod)) == alone
        apply(pod, "--cleanup-only")
        assert rules(pod) == before


@pytest.mark.root
def test_legacy_ip6tables_that_compares_too_little_does_not_mislead(pod: Namespace) -> None:
    """Its `-C` and `-D` do not look at uids and marks: rules of others, or of another uid, look like ours."""
    foreign = "-t mangle -A OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --uid-owner 7 -j MARK --set-mark 9"
    pod.run("ip6tables-legacy", *foreign.split())
    before = rules(pod)
    words = (*CASES["dns"], "-m", "TPROXY", "--force-iptables-binary", "legacy", "-u")
    apply(pod, *words, "4711")
    wanted = rules(pod)
    apply(pod, "--cleanup-only")
    assert rules(pod) == before

    apply(pod, *words, "1337")
    assert agent(pod, *words, "4711").returncode == 1
    apply(pod, *words, "4711", "--reconcile")
    assert sorted(rules(pod)) == sorted(wanted)


@pytest.mark.root
@pytest.mark.parametrize("backend", BACKENDS)
def test_applying_by_force_makes_the_same_rules_again(pod: Namespace, backend: str) -> None:
    apply(pod, *CASES["tproxy"], "--force-iptables-binary", backend)
    whole = rules(pod)

    said = apply(pod, *CASES["tproxy"], "--force-apply")

    assert "Applying iptables chains and rules" in said
    assert sorted(rules(pod)) == sorted(whole)


@pytest.mark.root
def test_rules_of_ours_decide_the_backend_even_if_the_other_gets_rules_later(pod: Namespace) -> None:
    apply(pod, *CASES["injected"])
    pod.run("iptables-legacy", "-t", "filter", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP")
    made = rules(pod)

    apply(pod, *CASES["injected"])

    assert rules(pod) == made


@pytest.mark.root
def test_legacy_is_used_where_it_holds_rules(pod: Namespace) -> None:
    pod.run("iptables-legacy", "-t", "filter", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP")

    apply(pod, *CASES["injected"])

    assert "ISTIO_OUTPUT" in pod.run("iptables-legacy-save").stdout
    assert "ISTIO_OUTPUT" not in pod.run("iptables-nft-save").stdout
    assert "ISTIO_OUTPUT" in pod.run("ip6tables-nft-save").stdout


@pytest.mark.root
@pytest.mark.parametrize("options", [(), ("--native-nftables",), ("--cleanup-only",), ("--reconcile",)])
def test_a_dry_run_touches_nothing_and_needs_no_root(pod: Namespace, options: tuple[str, ...]) -> None:
    before = pod.run("nft", "list", "ruleset").stdout, rules(pod)

    for user in (None, 1337):
        words = (sys.executable, str(PROGRAM), "istio-iptables", *CASES["tproxy"], "--dry-run", *options)
        said = pod.run(*words, uid=user, environment={"PATH": "/nowhere"}).stdout
        assert "skipping configuring routes due to dry run mode" in said

    assert (pod.run("nft", "list", "ruleset").stdout, rules(pod)) == before


@pytest.mark.root
def test_a_machine_without_ipv6_gets_rules_for_ipv4_alone() -> None:
    require_network_namespaces("iptables-nft", "iptables-legacy")
    with Namespace("old") as old:
        old.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        old.add_address("10.0.0.1/32")
        ended = agent(old, *CASES["tproxy"])

        assert ended.returncode == 0, ended.stdout
        assert "ISTIO_OUTPUT" in old.run("iptables-save").stdout
        assert "ISTIO" not in old.run("ip6tables-save").stdout
        assert "ENABLE_INBOUND_IPV6=false" in ended.stdout
        assert agent(old, "--cleanup-only").returncode == 0
        assert "ISTIO" not in old.run("iptables-save").stdout


@pytest.mark.root
def test_validation_passes_for_the_proxy_s_user_alone(pod: Namespace) -> None:
    words = (
        sys.executable,
        str(PROGRAM),
        "istio-iptables",
        *INJECTED,
        "--skip-rule-apply",
        "--run-validation",
    )
    nothing = pod.run(*words, "--probe-timeout", "300ms", uid=1337, check=False)
    assert nothing.returncode == 126
    assert "iptables validation failed; workload is not ready for Istio." in nothing.stdout

    for options in ((), ("--native-nftables",)):
        apply(pod, *INJECTED, *options)
        for family in ((), ("--dual-stack",)):
            passed = pod.run(*words, *family, uid=1337)
            assert "Validation passed, iptables rules established" in passed.stdout
        assert pod.run(*words, "--probe-timeout", "300ms", check=False).returncode == 126
        apply(pod, "--cleanup-only")


@pytest.mark.root
def test_cni_mode_gives_the_same_rules_with_the_namespace_as_lock(pod: Namespace, tmp_path: Path) -> None:
    apply(pod, *INJECTED, "--force-iptables-binary", "legacy")
    expected = rules(pod)
    apply(pod, "--cleanup-only")
    lock = tmp_path / "netns"
    lock.touch()

    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        words = ("--cni-mode", "--network-namespace", str(lock), "--force-iptables-binary", "legacy")
        command = [
            *pod.prefix(),
            sys.executable,
            str(PROGRAM),
            "istio-iptables",
            *INJECTED,
            "--dual-stack",
            *words,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as waiting:
            wait_for(lambda: children(waiting), what="a wait for the lock")
            assert waiting.poll() is None
            fcntl.flock(held, fcntl.LOCK_UN)
            assert waiting.wait(30) == 0

    assert rules(pod) == expected


@pytest.mark.root
@pytest.mark.parametrize("options", [(), ("--native-nftables",)], ids=["iptables", "nft"])
def test_runs_at_the_same_time_take_turns(pod: Namespace, options: tuple[str, ...]) -> None:
    apply(pod, *CASES["tproxy"], *options)
    whole = rules(pod)
    apply(pod, "--cleanup-only")
    words = (sys.executable, str(PROGRAM), "istio-iptables", *CASES["tproxy"], "--dual-stack", *options)

    runs = [subprocess.Popen([*pod.prefix(), *words], stdout=subprocess.DEVNULL) for _ in range(4)]

    assert [run.wait(60) for run in runs] == [0, 0, 0, 0]
    assert sorted(rules(pod)) == sorted(whole)
