"""Each recorded run of the reference gives the same configuration and the same command line of Envoy."""

import json
from pathlib import Path

import pytest

from pilot_agent.bootstrap import envoy_arguments, render
from tests.support.bootstrap_golden import GoldenCase, differences, golden_cases

CASES = golden_cases()
RENDERED = [case for case in CASES if case.name != "custom_config_file"]

FIXED = {
    "stats_flush_over_a_minute": ["$.stats_flush_interval: want '1m30s', got '90s'"],
}
"""Where we differ on purpose: the reference's text is refused by Envoy."""


def test_there_are_as_many_cases_as_were_recorded() -> None:
    assert len(CASES) == 35


@pytest.mark.parametrize("case", RENDERED, ids=lambda case: case.name)
def test_the_configuration_is_the_recorded_one(case: GoldenCase, tmp_path: Path) -> None:
    got = render(case.options(tmp_path)).decode()

    if isinstance(case.bootstrap, str):
        assert got == case.bootstrap
    else:
        assert list(differences(case.bootstrap, json.loads(got))) == FIXED.get(case.name, [])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_command_line_is_the_recorded_one(case: GoldenCase, tmp_path: Path) -> None:
    options = case.options(tmp_path)

    assert options.file_suffix == case.case["envoy_config_name"].rpartition(".")[2]
    assert envoy_arguments(options, config_file=case.case["envoy_config_name"]) == case.case["envoy_args"]


def test_a_custom_config_file_is_never_taken_for_a_template(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "custom_config_file")

    assert case.options(tmp_path).template is None
