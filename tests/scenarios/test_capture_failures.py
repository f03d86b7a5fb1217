"""What goes wrong while the rules are made: nothing is left half done, and the user is told why."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capture_pod import CASES, INJECTED, agent, apply, capture_pod, children, rules, wrapped
from tests.support.cli import PROGRAM
from tests.support.netns import Namespace, require_network_namespaces
from tests.support.waiting import wait_for


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with capture_pod() as namespace:
        yield namespace


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
    script = script if options else "echo x: broken >&2; exit 2"
    environment = wrapped(tmp_path, program, script, pattern="istio" if options else "ISTIO")

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
def test_a_reconciliation_that_fails_puts_the_old_rules_back(pod: Namespace, tmp_path: Path) -> None:
    apply(pod, *CASES["dns"])
    other = rules(pod)
    environment = wrapped(tmp_path, "ip6tables-nft-restore", "exit 4")

    ended = agent(pod, *CASES["tproxy"], "--reconcile", environment=environment)

    assert ended.returncode == 1
    assert "Removing guardrails" in ended.stdout
    assert sorted(rules(pod)) == sorted(other)


@pytest.mark.root
def test_a_signal_while_guardrails_are_removed_leaves_none(pod: Namespace, tmp_path: Path) -> None:
    apply(pod, *CASES["tproxy"])
    other = rules(pod)
    script = "kill -TERM $PPID; exec sleep 60"
    environment = wrapped(tmp_path, "ip6tables-nft-restore", script, pattern="-D INPUT")

    ended = agent(pod, *CASES["dns"], "--reconcile", environment=environment)

    assert ended.returncode == -signal.SIGTERM
    assert "-j DROP" not in pod.run("ip6tables-save").stdout
    assert sorted(rules(pod)) == sorted(other)


@pytest.mark.root
def test_a_signal_while_nft_commits_leaves_what_was_committed_with_its_routes(
    pod: Namespace, tmp_path: Path
) -> None:
    apply(pod, *CASES["dns"], "--native-nftables")
    wanted = rules(pod)
    apply(pod, "--cleanup-only")
    apply(pod, *CASES["tproxy"], "--native-nftables")
    script = 'run "$@"; kill -TERM $PPID; exec sleep 0.2'
    environment = wrapped(tmp_path, "nft", script, pattern="add table inet istio-proxy-raw")

    ended = agent(pod, *CASES["dns"], "--native-nftables", environment=environment)

    assert ended.returncode == -signal.SIGTERM
    assert sorted(rules(pod)) == sorted(wanted)


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
@pytest.mark.parametrize(
    ("command", "words"), [("istio-iptables", ("--cleanup-only",)), ("istio-clean-iptables", ())]
)
def test_a_cleanup_removes_the_guardrails_of_a_killed_run_also_where_no_chain_is(
    pod: Namespace, tmp_path: Path, command: str, words: tuple[str, ...]
) -> None:
    before = rules(pod)
    single = (sys.executable, str(PROGRAM), "istio-iptables", *CASES["injected"])
    pod.run(*single)  # IPv4 alone: the first address is one
    assert "ISTIO" not in pod.run("ip6tables-save").stdout
    environment = wrapped(tmp_path, "iptables-nft-restore", "kill -KILL $PPID")
    assert agent(pod, *CASES["dns"], "--reconcile", environment=environment).returncode == -signal.SIGKILL
    assert "-A INPUT -p tcp -j DROP" in pod.run("iptables-save").stdout
    assert "-A INPUT -p tcp -j DROP" in pod.run("ip6tables-save").stdout

    assert agent(pod, *words, command=command).returncode == 0

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
        (("-b", "80,*"), "--istio-inbound-ports"),
        (("-o", "99999"), "--istio-local-outbound-ports-exclude"),
        (("-e", "1,2"), "--inbound-tunnel-port"),
        (("-z", ""), "--inbound-capture-port"),
        (("-p", "x"), "--envoy-port"),
        (("-u", "nobody-of-this-name"), "--proxy-uid"),
        (("-c", "an-interface-name-too-long"), "--istio-exclude-interfaces"),
        (("-m", "TPROXY", "-t", "banana"), "--istio-inbound-tproxy-mark"),
        (("-m", "TPROXY", "-t", "0"), "--istio-inbound-tproxy-mark"),  # every packet without a mark has it
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
def test_a_backend_that_cannot_write_is_passed_over(pod: Namespace, tmp_path: Path) -> None:
    """As on a kernel without nf_tables: reading works, and the first rule is refused."""
    broken = tmp_path / "iptables-nft-restore"
    broken.write_text(
        "#!/bin/sh\necho 'iptables-nft-restore v1.8.9: no nf_tables' >&2\nexit 3\n", encoding="utf-8"
    )
    broken.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    forced = agent(pod, *INJECTED, "--force-iptables-binary", "nft", environment=environment)
    assert forced.returncode == 1
    assert "xtables version problem: no nf_tables" in forced.stdout
    assert "ISTIO" not in "".join(rules(pod))

    ended = agent(pod, *INJECTED, environment=environment)
    assert ended.returncode == 0, ended.stdout
    assert "Running iptables restore with: iptables-restore" in ended.stdout
    assert agent(pod, *INJECTED).returncode == 0
