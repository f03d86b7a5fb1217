"""How long a secret takes: one at hand on a new SDS stream, and a new one from its key to Envoy's stream.

The agent's certificates are due at once (ECDSA), so that an SDS stream sees one signing after the other; its
Envoy takes them, too. What a signing must cost is measured beside it, with the same code in this process,
where all is imported: a key with its CSR, and a call of the CA.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest

from benchmarks.report import Report, Row, Spread
from benchmarks.rig import agent_for, mesh_on_free_ports, short_directory
from lab.istiod import Istiod
from pilot_agent.security.key_worker import make_key
from pilot_agent.security.sign_worker import sign
from pilot_agent.security.work import KeyMade, KeyParameters, SignRequest, encode, result
from tests.support.sds_client import METHOD, SdsClient
from tests.support.waiting import wait_for

PAIRS: Final = 50
_CALLS: Final = 6  # streams and unary calls for each pair
_WORKER_MS: Final = 90.0
_ENVIRONMENT: Final = {"ECC_SIGNATURE_ALGORITHM": "ECDSA", "CERT_ROTATION_POLICY": "sds"}
_ALWAYS_DUE: Final = {"SECRET_GRACE_PERIOD_RATIO": "1", "SECRET_GRACE_PERIOD_RATIO_JITTER": "0"}
_SOCKET: Final = "var/run/secrets/workload-spiffe-uds/socket"
_ID: Final = "spiffe://cluster.local/ns/default/sa/bookinfo-apps"


def run(pairs: int = PAIRS) -> Report:
    """Measure `pairs` signings, and some calls of the socket for each."""
    with short_directory() as directory, Istiod(mesh_on_free_ports()) as istiod:
        with agent_for(istiod, directory / "calm", environment=_ENVIRONMENT):
            streams, calls = _at_hand(directory / "calm" / _SOCKET, pairs * _CALLS)
        with agent_for(istiod, directory / "busy", environment=_ENVIRONMENT | _ALWAYS_DUE):
            served = _signings(directory / "busy" / _SOCKET, pairs)
        keys, asked = _parts(istiod, directory / "calm", pairs)
    extra = [whole - statistics.median(keys) - statistics.median(asked) for whole in served]
    ratio = statistics.median(streams) / statistics.median(calls)
    return Report(
        question="identity: a secret at hand, and a new one",
        rows=(
            Row(what="a secret at hand on a new stream", unit="ms", value=Spread.of(streams)),
            Row(what="a unary call with an empty request, same socket", unit="ms", value=Spread.of(calls)),
            Row(what="stream / call, medians", unit="ratio", value=Spread.of([ratio]), target="≤ 2"),
            Row(what="key and CSR, all imported", unit="ms", value=Spread.of(keys)),
            Row(what="a call of the CA, all imported", unit="ms", value=Spread.of(asked)),
            Row(what="from one certificate to the next on a stream", unit="ms", value=Spread.of(served)),
            Row(
                what="of which beyond key and CA",
                unit="ms",
                value=Spread.of(extra),
                target=f"≤ {_WORKER_MS:.0f}",
            ),
        ),
        notes=("the unary call is FetchSecrets with an empty request, which is refused at once",),
    )


def _at_hand(socket: Path, times: int) -> tuple[list[float], list[float]]:
    wait_for(socket.exists, what="the SDS socket")
    request = DiscoveryRequest(node=Node(id="bench"), resource_names=["default"]).SerializeToString()
    with SdsClient(str(socket)) as client:
        stream = client.channel.stream_stream(f"{METHOD}StreamSecrets", None, None)
        fetch = client.channel.unary_unary(f"{METHOD}FetchSecrets", None, None)

        def on_a_new_stream() -> None:
            call: Any = stream(iter([request]), wait_for_ready=True)  # call and iterator in one
            next(call)
            call.cancel()

        def refused() -> None:
            call: Any = fetch.future(b"", timeout=5.0)
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT, call.details()

        on_a_new_stream()
        took = [(_ms(on_a_new_stream), _ms(refused)) for _ in range(times)]
    return [one for one, _ in took], [one for _, one in took]


def _signings(socket: Path, times: int) -> list[float]:
    wait_for(socket.exists, what="the SDS socket")
    with SdsClient(str(socket)) as client:
        stream = client.stream()
        stream.names("default")
        stream.response(30.0)
        return [_ms(lambda: stream.response(30.0)) for _ in range(times)]


def _parts(istiod: Istiod, directory: Path, times: int) -> tuple[list[float], list[float]]:
    parameters = encode(KeyParameters(spiffe_id=_ID, signature_algorithm="ECDSA"))
    made = result(make_key(parameters), KeyMade)
    secrets = directory / "var/run/secrets"
    request = encode(
        SignRequest(
            csr_pem=made.csr_pem,
            address=istiod.address,
            server_name="istiod.istio-system.svc",
            plaintext=False,
            root_path=str(secrets / "istio/root-cert.pem"),
            token_path=str(secrets / "tokens/istio-token"),
        )
    )
    took = [(_ms(lambda: make_key(parameters)), _ms(lambda: sign(request))) for _ in range(times)]
    return [one for one, _ in took], [one for _, one in took]


def _ms(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) * 1e3
