"""The decision table of Envoy's readiness."""

import pytest

from pilot_agent.health.readiness import StatsError, config_refusal, epoch_refusal, live_refusal, stat


def config(cds: int, cds_rejected: int, lds: int, lds_rejected: int) -> str:
    return (
        f"cluster_manager.cds.update_rejected: {cds_rejected}\ncluster_manager.cds.update_success: {cds}\n"
        f"listener_manager.lds.update_rejected: {lds_rejected}\nlistener_manager.lds.update_success: {lds}\n"
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            config(0, 0, 0, 0),
            (
                "config not received from XDS server (is Istiod running?): cds updates: 0 successful,"
                " 0 rejected; lds updates: 0 successful, 0 rejected"
            ),
        ),
        (
            config(0, 3, 0, 1),
            (
                "config not received from XDS server (is Istiod running?): cds updates: 0 successful,"
                " 3 rejected; lds updates: 0 successful, 1 rejected"
            ),
        ),
        (
            config(0, 1, 1, 0),
            (
                "config received from XDS server, but was rejected: cds updates: 0 successful, 1 rejected;"
                " lds updates: 1 successful, 0 rejected"
            ),
        ),
        (
            config(0, 0, 1, 0),
            (
                "config not fully received from XDS server: cds updates: 0 successful, 0 rejected;"
                " lds updates: 1 successful, 0 rejected"
            ),
        ),
        (
            config(1, 0, 0, 0),
            (
                "config not fully received from XDS server: cds updates: 1 successful, 0 rejected;"
                " lds updates: 0 successful, 0 rejected"
            ),
        ),
        (
            "",
            (
                "config not received from XDS server (is Istiod running?): cds updates: 0 successful,"
                " 0 rejected; lds updates: 0 successful, 0 rejected"
            ),
        ),
        (config(1, 5, 2, 7), None),
    ],
    ids=[
        "none",
        "all rejected",
        "cds rejected",
        "cds missing",
        "lds missing",
        "empty answer",
        "both accepted",
    ],
)
def test_configuration_is_there_when_cds_and_lds_were_accepted(answer: str, text: str | None) -> None:
    assert config_refusal(answer) == text


def live(state: int, workers: int) -> str:
    return f"listener_manager.workers_started: {workers}\nserver.state: {state}\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (live(0, 1), None),
        (live(1, 1), "server is not live, current state is: DRAINING"),
        (live(2, 1), "server is not live, current state is: PRE_INITIALIZING"),
        (live(3, 0), "server is not live, current state is: INITIALIZING"),
        (live(7, 1), "server is not live, current state is: UNKNOWN"),
        (live(0, 0), "workers have not yet started"),
        (
            "listener_manager.workers_started: 1\n",
            (
                "failed to get readiness stats: server.state is not yet updated:"
                " listener_manager.workers_started: 1\n"
            ),
        ),
        (
            "server.state: 0\n",
            (
                "failed to get readiness stats: listener_manager.workers_started is not yet updated:"
                " server.state: 0\n"
            ),
        ),
    ],
    ids=["live", "draining", "pre", "initializing", "unknown", "no workers", "no state", "no workers stat"],
)
def test_envoy_is_live_when_it_says_so_and_its_workers_run(answer: str, text: str | None) -> None:
    assert live_refusal(answer) == text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("server.state 0", "envoy stat server.state missing separator. line:server.state 0"),
        ("server.state: 0: 1", "envoy stat server.state missing separator. line:server.state: 0: 1"),
        ("server.state: x", 'failed parsing Envoy stat server.state (error: strconv.ParseUint: parsing "x"'),
        ("server.state: -1", "failed parsing Envoy stat server.state"),
        (f"server.state: {1 << 64}", "failed parsing Envoy stat server.state"),
        (f"server.state: {'9' * 5000}", "failed parsing Envoy stat server.state"),
    ],
)
def test_a_line_that_is_no_stat_is_told_with_its_text(line: str, text: str) -> None:
    with pytest.raises(StatsError) as caught:
        stat(f"a: 1\n{line}\nb: 2", "server.state")
    assert str(caught.value).startswith(text)
    assert (live_refusal(line) or "").startswith(f"failed to get readiness stats: {text}")


def test_the_first_line_that_begins_with_the_name_counts() -> None:
    assert stat("server.state_x: 3\nserver.state: 0", "server.state") == 3
    assert stat(f"server.state: {(1 << 64) - 1}", "server.state") == (1 << 64) - 1


def test_an_answer_of_another_epoch_proves_nothing() -> None:
    assert epoch_refusal("server.hot_restart_epoch: 1\n", 1) is None
    assert epoch_refusal("server.state: 0\n", 1) is None
    assert epoch_refusal("server.hot_restart_epoch: 0\n", 1) == (
        "epoch 1 does not answer yet: the admin port is still that of epoch 0"
    )
