"""The first steps: one request, the split, and how the two roles differ. Each raises StepFailedError."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lab.demo.agent import Agent
from lab.demo.http import Answer, get
from lab.demo.show import StepFailedError, table
from lab.demo.stage import Stage
from lab.demo.waiting import until

_REQUESTS = 100
_FEWEST, _MOST = 25, 75  # of 100 at 50/50; outside is one in 2 million
_REVIEWS = "/api/v1/products/0/reviews"


def one_request(stage: Stage) -> list[str]:
    """Send one request the whole way; the application says whom the sidecar saw calling."""
    answer = until(lambda: _ok(get(stage.gateway_port, "/productpage")), what="an answer", within_s=20)
    expected = stage.mesh.spiffe_id(stage.router.proxy.service_account)
    caller, served = answer.headers.get("x-caller"), answer.headers.get("x-served-by")
    if caller != expected:
        raise StepFailedError(f"caller got={caller} expected={expected}: the request did not come over mTLS")
    return [
        f"GET http://127.0.0.1:{stage.gateway_port}/productpage → {answer.status}, {len(answer.body)} bytes",
        f"gateway → mTLS → sidecar → {served}; the sidecar saw the caller {caller}",
    ]


def split(stage: Stage) -> list[str]:
    """Ask for reviews 100 times and count who answered."""
    served = Counter(_reviews_pod(stage) for _ in range(_REQUESTS))
    counts = [served["reviews-v1"], served["reviews-v3"]]
    if sum(counts) != _REQUESTS or not all(_FEWEST <= count <= _MOST for count in counts):
        raise StepFailedError(f"{_REQUESTS} requests were served by {dict(served)}, expected v1 and v3 alike")
    return [f"{_REQUESTS} requests: reviews-v1 {counts[0]}, reviews-v3 {counts[1]} (routes say 50/50)"]


def push(stage: Stage) -> list[str]:
    """Change the weights in the control plane and see the requests follow, then change them back."""
    reviews = stage.mesh.service("reviews")
    stage.istiod.push(stage.mesh.with_split("reviews", {"v2": 100}))
    until(
        lambda: {_reviews_pod(stage) for _ in range(4)} == {"reviews-v2"},
        what="all requests at reviews-v2 after the push",
        within_s=10,
    )
    stage.istiod.push(stage.mesh.with_split("reviews", dict(reviews.split)))
    until(lambda: _reviews_pod(stage) != "reviews-v2", what="the old weights", within_s=10)
    nacks = stage.istiod.observed.nack_messages()
    if nacks:
        raise StepFailedError(f"Envoy rejected: {nacks[-1]}")
    return ["all weight to reviews-v2 and back; each push reached Envoy, nothing was rejected"]


def roles(stage: Stage) -> list[str]:
    """Compare what the two Envoys were told."""
    router, sidecar = _facts(stage.router), _facts(stage.sidecar)
    if router["inbound clusters"] or not sidecar["inbound clusters"]:
        got = f"router {router['inbound clusters']}, sidecar {sidecar['inbound clusters']}"
        raise StepFailedError(f"inbound clusters: {got}; expected them at the sidecar alone")
    rows = []
    for fact, names in router.items():
        rows.append((fact, "router", len(names), _some(names)))
        rows.append(("", "sidecar", len(sidecar[fact]), _some(sidecar[fact])))
    return table(["config_dump", "role", "count", "names"], rows).splitlines()


def _facts(agent: Agent) -> Mapping[str, Sequence[str]]:
    dump = _by_kind(agent.admin("/config_dump"))
    clusters = [one["cluster"]["name"] for one in dump["ClustersConfigDump"]["dynamic_active_clusters"]]
    listeners = [one["name"] for one in dump["ListenersConfigDump"]["dynamic_listeners"]]
    routes = [one["route_config"]["name"] for one in dump["RoutesConfigDump"]["dynamic_route_configs"]]
    secrets = [one["name"] for one in dump["SecretsConfigDump"]["dynamic_active_secrets"]]
    return {
        "node": [dump["BootstrapConfigDump"]["bootstrap"]["node"]["id"].rpartition("~")[0]],
        "listeners": sorted(listeners),
        "routes (RDS)": sorted(routes),
        "outbound clusters": sorted(one for one in clusters if one.startswith("outbound|")),
        "inbound clusters": sorted(one for one in clusters if one.startswith("inbound|")),
        "secrets (SDS)": sorted(secrets),
    }


def _by_kind(dump: Mapping[str, Any]) -> Mapping[str, Any]:
    kinds = {one["@type"].rpartition(".")[2]: one for one in dump["configs"]}
    defaults = {
        "ClustersConfigDump": "dynamic_active_clusters",
        "ListenersConfigDump": "dynamic_listeners",
        "RoutesConfigDump": "dynamic_route_configs",
        "SecretsConfigDump": "dynamic_active_secrets",
    }
    for kind, member in defaults.items():
        kinds.setdefault(kind, {}).setdefault(member, [])
    return kinds


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]}, …"


def _reviews_pod(stage: Stage) -> str:
    answer = get(stage.gateway_port, _REVIEWS)
    if answer.status != 200:
        raise StepFailedError(f"GET {_REVIEWS}: status {answer.status}: {answer.body[:200]!r}")
    return str(json.loads(answer.body)["podname"])


def _ok(answer: Answer) -> Answer | None:
    if answer.status != 200:
        raise OSError(f"status {answer.status}: {replace(answer, headers={}).body[:200]!r}")
    return answer
