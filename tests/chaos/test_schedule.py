"""A short selection of the chaos; the whole deck runs as `tox run -e chaos -- --seconds 600`.

`--seconds` says for how long, `--seed` repeats a run's draw.
"""

import random
import subprocess
import sys

import pytest

from tests.chaos import table
from tests.chaos.faults import PHASES, catalogue
from tests.chaos.oracle import Found, sort_failures
from tests.chaos.phases import PHASES as STEPS
from tests.chaos.schedule import episodes
from tests.chaos.traffic import Failure
from tests.support.agent import REPOSITORY
from tests.support.real_envoy import envoy_path

SELECTION = (
    "SIGKILL: all",
    "SIGKILL: a pair",
    "SIGSTOP: a pair",
    "memory: sds",
    "SIGKILL: Envoy",
    "SIGKILL: supervisor",
    "istiod killed and back",
    "istiod garbage",
    "disk full: etc",
    "certificate file truncated",
    "descriptors exhausted: sds",
)


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_is_true_stays_true_whatever_fails(pytestconfig: pytest.Config) -> None:
    envoy_path()
    seconds, seed = pytestconfig.getoption("--seconds"), pytestconfig.getoption("--seed")
    words = ["--seconds", str(seconds), "--seed", str(seed), "--acts", "6", "--only", "|".join(SELECTION)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "acts with something wrong" in ran.stdout


def test_a_seed_draws_the_same_acts_and_each_fault_before_any_comes_again() -> None:
    faults = list(catalogue().values())

    def drawn(seed: int) -> list[str]:
        made = episodes(faults, random.Random(seed), acts=5)
        names: list[str] = []
        while len(names) < len(faults):
            names += [f"{card} {own}" for _, cards, own in [next(made)] for card in cards]
        return names

    assert drawn(1) == drawn(1) != drawn(2)
    assert sorted({name.split(",")[0].split(" at the")[0] for name in drawn(3)}) == sorted(
        one.name for one in faults
    )


def test_every_fault_has_a_step_and_every_step_is_known() -> None:
    for fault in catalogue().values():
        assert fault.phases <= set(STEPS) == set(PHASES)
        assert any(fault.variants & STEPS[name].variants for name in fault.phases), fault.name


def test_only_what_a_fault_may_cut_and_only_while_it_lasts_is_cut() -> None:
    inside, outside = Failure("dns", 1.0, 2.0, "x"), Failure("dns", 5.1, 5.2, "x")
    other = Failure("http2", 1.0, 2.0, "x")
    cut, failed = sort_failures(
        [inside, outside, other], frozenset({"dns"}), (1.5, 5.0), excused=frozenset({"tcp-kept"})
    )
    assert (cut, failed) == ([inside], [outside, other])


def test_the_table_adds_up() -> None:
    found = [
        Found(fault="a", phase="push", variant="sds", back_s=[0.1, 0.3], whole_s=1.0, good=5, cut=1),
        Found(
            fault="a", phase="push", variant="sds", back_s=[0.2], whole_s=3.0, good=7, failed=2, wrong=["x"]
        ),
    ]
    text = table.table(found)
    assert "| a | push | 2 | 0.20 / 0.30 | 2.00 / 3.00 | 12 | 1 | 2 | 1 |" in text
    assert "2 acts; 12 requests answered, 1 cut, 2 failed; 3 deaths of actors" in text
