"""`ISTIO_KUBE_APP_PROBERS`: what is taken and what ends the start."""

import json

import pytest

from pilot_agent.status.app.configuration import AppProbeError, AppProber, parse_app_probers

LIVE = "/app-health/hello-world/livez"


def one(prober: dict[str, object], path: str = LIVE) -> str:
    return json.dumps({path: prober})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{invalid", "failed to decode app prober err = "),
        ("[]", "json: cannot unmarshal array into Go value"),
        (one({}, "abc"), "invalid path, must be in form of regex pattern ^/(app-health|app-lifecycle)/"),
        (one({"tcpSocket": {"port": 1}}, "/app-health/a/b/livez"), "invalid path"),
        (one({"tcpSocket": {"port": 1}}, "/app-health/a/livez\n"), "invalid path"),
        (one({"exec": {"command": ["true"]}}), "invalid prober type, must be one of type httpGet, tcpSocket"),
        (
            one({"tcpSocket": {"port": 1}, "httpGet": {"port": 2}}),
            "must be one of type httpGet, tcpSocket or",
        ),
        (
            one({"grpc": {"port": 1}, "httpGet": {"port": 2}}),
            "must be one of type httpGet, tcpSocket or gRPC",
        ),
        (one({"tcpSocket": {"port": "tcp"}}), f"invalid prober config for {LIVE}, the port must be int type"),
        (one({"httpGet": {"port": "container-port-dontknow"}}), "the port must be int type"),
        (one({"grpc": {"port": "x"}}), "failed to decode app prober err = json: cannot unmarshal string"),
        (one({"httpGet": {"port": 1}, "timeoutSeconds": 1.5}), "cannot unmarshal number 1.5"),
        (one({"httpGet": "x"}), "cannot unmarshal string"),
        (one({"httpGet": {"port": 1, "path": 7}}), "cannot unmarshal number 7"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(text: str, complaint: str) -> None:
    with pytest.raises(AppProbeError) as refused:
        parse_app_probers(text)
    assert complaint in str(refused.value)
    if "failed to decode" in complaint:
        assert str(refused.value).endswith(f"json string = {text}")


@pytest.mark.parametrize(
    ("prober", "expected"),
    [
        ({"tcpSocket": {"port": 8888}}, AppProber(kind="tcp", port=8888)),
        ({"httpGet": {"port": 80}}, AppProber(kind="http", port=80, path="/")),
        ({"httpGet": {"port": 80, "path": "hello/a"}}, AppProber(kind="http", port=80, path="/hello/a")),
        (
            {"httpGet": {"port": 80, "scheme": "HTTPS"}, "timeoutSeconds": 3},
            AppProber(kind="http", port=80, tls=True, timeout_s=3.0),
        ),
        ({"httpGet": {"port": 80, "scheme": "https"}}, AppProber(kind="http", port=80)),
        (
            {"httpGet": {"port": 80, "host": "x", "httpHeaders": [{"name": "a"}]}, "periodSeconds": 1},
            AppProber(kind="http", port=80),
        ),
        (
            {"httpGet": {"port": 80, "initialDelaySeconds": 3}, "failureThreshold": 2},
            AppProber(kind="http", port=80),
        ),
        ({"gRPC": {"port": 7, "service": None}}, AppProber(kind="grpc", port=7)),
        ({"grpc": {"port": 7}, "timeoutSeconds": 9}, AppProber(kind="grpc", port=7, timeout_s=9.0)),
        ({"GRPC": {"Port": 7, "service": "foo"}}, AppProber(kind="grpc", port=7, service="foo")),
        ({"httpGet": {"port": 1}, "tcpSocket": None}, AppProber(kind="http", port=1)),
    ],
)
def test_a_prober_is_read(prober: dict[str, object], expected: AppProber) -> None:
    assert parse_app_probers(one(prober)) == {LIVE: expected}


def test_there_may_be_none_or_several() -> None:
    assert parse_app_probers("") == parse_app_probers("{}") == parse_app_probers("null") == {}
    paths = [f"/app-health/c{n}/{kind}" for n in (1, 2) for kind in ("livez", "readyz", "startupz")]
    paths += ["/app-lifecycle/c1/prestopz", "/app-lifecycle/c1/poststartz"]
    assert set(parse_app_probers(json.dumps({path: {"httpGet": {"port": 1}} for path in paths}))) == set(
        paths
    )
