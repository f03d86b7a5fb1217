"""What Envoy counts of its ADS stream: equal before and after means that it has noticed nothing."""

from tests.support.agent import RealAgent

TOLD = {"proxyStatsMatcher": {"inclusionPrefixes": ["control_plane"]}}
"""The member of ProxyConfig that lets `control_plane.connected_state` out, beside what Istio lets out."""

_PATTERN = (
    r"(control_plane.connected_state|xds-grpc.*upstream_(rq_total|cx_total|rq_active)"
    r"|(cds|lds|rds|eds).*update_(failure|rejected|attempt|success))"
)


def stream_counts(agent: RealAgent) -> dict[str, int]:
    """Return the counts of the stream and of each subscription's failures.

    An attempt is a response, or a stream that was lost: `…update_attempt` is told without the successes.
    """
    counted = agent.stats(_PATTERN)
    attempts = {name: count for name, count in counted.items() if name.endswith("update_attempt")}
    for name, count in attempts.items():
        counted[name] = count - counted.pop(name.replace("attempt", "success"))
    return counted
