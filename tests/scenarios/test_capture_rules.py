"""The rules in a real kernel: put in place whole or not at all, once, and removed again without a trace."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.cli import PROGRAM
from tests.support.netns import Namespace, require_network_namespaces
from tests.support.waiting import wait_for

INJECTED = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*")
CASES = {
    "injected": INJECTED,
    "tproxy": (*INJECTED, "-m", "TPROXY", "-t", "1338", "-r", "201", "-c", "net1"),
    "dns": (*INJECTED, "--redirect-dns", "--capture-all-dns", "-o", "3306"),
    "virtual": ("-k", "net1,net2", "-i", "10.0.0.0/8,fd00::/8", "-b", "80,443", "-q", "8443", "-u", "1337"),
    "virtual without outbound": ("-k", "net1,net2", "-u", "1337"),
    "odd words": (
        "-i",
        "10.1.2.3/8,fd00::1/8",
        "-u",
        "root",
        "-g",
        "root",
        "-b",
        "http,1024:2048",
        "-c",
        "e+",
    ),
    "drop invalid": (*INJECTED, "--drop-invalid", "-c", "net1,net2"),
}
BACKENDS = ("nft", "legacy")
EVERY_SAVE = [f"{name}-{backend}-save" for name in ("iptables", "ip6tables") for backend in BACKENDS]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    require_network_namespaces("iptables-nft", "iptables-legacy", "nft")
    with Namespace("pod") as namespace:
        namespace.add_address("10.0.0.1/32")
        namespace.add_address("2001:db8::1/128")
        yield namespace


def agent(
    pod: Namespace, *words: str, environment: Mapping[str, str] | None = None, command: str = "istio-iptables"
) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, str(PROGRAM), command, *words)
    if command == "istio-iptables":
        words = (*words, "--dual-stack")
    return pod.run(*words, environment=os.environ | dict(environment or {}), check=False)


def apply(pod: Namespace, *words: str) -> str:
    ended = agent(pod, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def rules(pod: Namespace) -> list[str]:
    """Return every rule and chain of ours of both backends and families, and what belongs to them."""
    found = []
    for save in EVERY_SAVE:
        lines = pod.run(save).stdout.splitlines()
        table = ""
        for line in lines:
            table = line if line.startswith("*") else table
            if line.startswith("-A") or (line.startswith(":") and "ISTIO" in line):
                found.append(f"{save} {table} {line.partition(' [')[0]}")
    for words in (
        ("rule",),
        ("-6", "rule"),
        ("route", "show", "table", "all"),
        ("-6", "route", "show", "table", "all"),
    ):
        found += pod.run("ip", *words).stdout.splitlines()
    found += pod.run("ip", "-6", "-o", "address", "show", "dev", "lo").stdout.split("\\")
    native = pod.run("nft", "list", "tables").stdout.splitlines()
    return found + [line for line in native if "istio" in line]


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
@pytest.mark.parametrize("case", [case for case in CASES if case != "odd words"])  # nft spells them otherwise
def test_native_rules_come_and_go_in_one_piece(pod: Namespace, case: str) -> None:
    before = rules(pod)
    apply(pod, *CASES[case], "--native-nftables")
    made = rules(pod), pod.run("nft", "list", "ruleset").stdout
    apply(pod, *CASES[case], "--native-nftables")
    assert (rules(pod), pod.run("nft", "list", "ruleset").stdout) == made

    apply(pod, "--native-nftables", "--cleanup-only")
    assert rules(pod) == before


def wrapped(directory: Path, program: str, script: str) -> dict[str, str]:
    """Return an environment in which `script` runs instead of `program` when rules of ours are its input."""
    real = shutil.which(program)
    file = directory / program
    file.write_text(
        f"#!/bin/sh\ninput=$(cat)\nREAL={real}\n"
        'run() { printf "%s\\n" "$input" | "$REAL" "$@"; }\n'
        f'case "$input" in *ISTIO*) {script};; *) run "$@";; esac\n',
        encoding="utf-8",
    )
    file.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


@pytest.mark.root
@pytest.mark.parametrize("case", ["tproxy", "dns"])
@pytest.mark.parametrize("options", [(), ("--native-nftables",)], ids=["iptables", "nft"])
def test_what_fails_in_the_middle_leaves_the_machine_as_it_was(
    pod: Namespace, tmp_path: Path, case: str, options: tuple[str, ...]
) -> None:
    pod.run("iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "--dport", "9999", "-j", "ACCEPT")
    before = rules(pod)
    program = "nft" if options else "ip6tables-nft-restore"
    script = 'printf "%s\nadd rule inet none none drop\n" "$input" | "$REAL" "$@"'
    environment = wrapped(tmp_path, program, script if options else "echo x: broken >&2; exit 2")
    if options:
        (tmp_path / "nft").write_text((tmp_path / "nft").read_text().replace("*ISTIO*", "*istio*"))

    ended = agent(pod, *CASES[case], *options, environment=environment)

    assert ended.returncode == 1
    assert ("xtables parameter problem: broken" if not options else "failed to execute nft") in ended.stdout
    assert "Error:" not in ended.stderr
    assert rules(pod) == before


@pytest.mark.root
def test_a_route_that_cannot_be_made_takes_the_rules_back(pod: Namespace) -> None:
    before = rules(pod)

    for words in (("-r", "99999999999"), ("-t", "x"), ("-r", "0x85")):
        ended = agent(pod, *CASES["tproxy"], *words)
        assert ended.returncode == 1
        assert "--istio-inbound-tproxy-" in ended.stdout
        assert rules(pod) == before


@pytest.mark.root
@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("iptables-nft-restore", 'kill -KILL $PPID; sleep 0.2; run "$@"'),
        ("ip6tables-nft-restore", "kill -KILL $PPID"),
        ("ip6tables-nft-restore", 'printf "%s\n" "$input" | sed "/COMMIT/q" | run "$@"; kill -KILL $PPID'),
    ],
    ids=["while IPv4 is made", "between the families", "between two tables"],
)
def test_a_run_that_was_killed_is_completed_by_the_next(
    pod: Namespace, tmp_path: Path, program: str, script: str
) -> None:
    apply(pod, *CASES["tproxy"])
    whole = rules(pod)
    apply(pod, "--cleanup-only")
    script = script.replace('| run "$@"', '| "$REAL" "$@"')

    ended = agent(pod, *CASES["tproxy"], environment=wrapped(tmp_path, program, script))
    assert ended.returncode == -signal.SIGKILL
    wait_for(lambda: pod.run("pgrep", "-f", str(tmp_path), check=False).stdout == "", what="the orphan's end")
    apply(pod, *CASES["tproxy"])

    assert sorted(rules(pod)) == sorted(whole)


@pytest.mark.root
def test_a_signal_in_the_middle_takes_everything_back(pod: Namespace, tmp_path: Path) -> None:
    before = rules(pod)
    script = "kill -TERM $PPID; exec sleep 60"

    ended = agent(pod, *CASES["tproxy"], environment=wrapped(tmp_path, "ip6tables-nft-restore", script))

    assert ended.returncode == -signal.SIGTERM
    assert rules(pod) == before


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


@pytest.mark.root
def test_a_reconciliation_that_fails_puts_the_old_rules_back(pod: Namespace, tmp_path: Path) -> None:
    apply(pod, *CASES["dns"])
    other = rules(pod)
    environment = wrapped(tmp_path, "ip6tables-nft-restore", "exit 4")

    ended = agent(pod, *CASES["tproxy"], "--reconcile", environment=environment)

    assert ended.returncode == 1
    assert "Removing guardrails" in ended.stdout
    assert sorted(rules(pod)) == sorted(other)


@pytest.mark.root
def test_guardrails_that_a_killed_run_left_are_removed(pod: Namespace, tmp_path: Path) -> None:
    apply(pod, *CASES["injected"])
    whole = rules(pod)
    environment = wrapped(tmp_path, "iptables-nft-restore", "kill -KILL $PPID")
    assert agent(pod, *CASES["dns"], "--reconcile", environment=environment).returncode == -signal.SIGKILL
    assert "-A INPUT -p tcp -j DROP" in pod.run("iptables-save").stdout

    apply(pod, *CASES["injected"])

    assert rules(pod) == whole


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
@pytest.mark.parametrize("options", [(), ("--native-nftables",)], ids=["iptables", "nft"])
def test_without_root_or_without_the_program_it_says_so(pod: Namespace, options: tuple[str, ...]) -> None:
    before = rules(pod)
    words = (sys.executable, str(PROGRAM), "istio-iptables", *INJECTED, *options)

    unprivileged = pod.run(*words, uid=1337, check=False)
    missing = pod.run(*words, environment={"PATH": "/nowhere"}, check=False)

    name = "nft" if options else "iptables-save"
    assert unprivileged.returncode == missing.returncode == 1
    assert unprivileged.stderr == missing.stderr == ""
    assert "ermission denied" in unprivileged.stdout or "not permitted" in unprivileged.stdout
    assert f'exec: "{name}": executable file not found in $PATH' in missing.stdout
    assert rules(pod) == before


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("-b", "80,banana"), "--istio-inbound-ports"),
        (("-o", "99999"), "--istio-local-outbound-ports-exclude"),
        (("-p", "x"), "--envoy-port"),
        (("-u", "nobody-of-this-name"), "--proxy-uid"),
        (("-c", "an-interface-name-too-long"), "--istio-exclude-interfaces"),
        (("-m", "TPROXY", "-t", "banana"), "--istio-inbound-tproxy-mark"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--native-nftables",)], ids=["iptables", "nft"])
def test_a_value_that_the_kernel_s_tools_refuse_is_named_with_its_flag(
    pod: Namespace, words: tuple[str, ...], flag: str, options: tuple[str, ...]
) -> None:
    before = rules(pod)

    ended = agent(pod, *INJECTED, *words, *options)

    assert ended.returncode == 1
    assert flag in ended.stdout.splitlines()[-1] or flag in ended.stdout.partition("Final iptables")[2]
    assert rules(pod) == before


def children(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")


@pytest.mark.root
def test_a_held_lock_is_waited_for_and_an_impatient_user_may_go(pod: Namespace, tmp_path: Path) -> None:
    before = rules(pod)
    lock = tmp_path / "lock"
    lock.touch()
    environment = os.environ | {"XTABLES_LOCKFILE": str(lock)}
    words = (sys.executable, str(PROGRAM), "istio-iptables", *INJECTED, "--force-iptables-binary", "legacy")

    with subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waiting = subprocess.Popen([*pod.prefix(), *words], env=environment, stdout=subprocess.PIPE)
        wait_for(lambda: children(waiting), what="iptables waiting")
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(10) == -signal.SIGTERM
        assert waiting.stdout is not None
        waiting.stdout.close()
        assert rules(pod) == before
        patient = subprocess.Popen([*pod.prefix(), *words], env=environment, stdout=subprocess.PIPE)
        wait_for(lambda: children(patient), what="iptables waiting")
        assert holder.stdin is not None
        holder.stdin.close()
        assert patient.wait(30) == 0
        assert patient.stdout is not None
        patient.stdout.close()

    assert "ISTIO_OUTPUT" in pod.run("iptables-legacy-save").stdout


@pytest.mark.root
def test_without_any_usable_address_nothing_is_done() -> None:
    require_network_namespaces("iptables-nft")
    with Namespace("bare") as bare:
        for words in ((), ("--dry-run",), ("--skip-rule-apply",)):
            ended = agent(bare, *INJECTED, *words)
            assert ended.returncode == 1
            assert "no valid local IP address found" in ended.stdout


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
