"""Our hand-written encoding means what Envoy's own messages mean."""

import contextlib

import pytest
from envoy.config.core.v3.base_pb2 import DataSource, Node
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from pilot_agent.security.sds_wire import (
    SECRET_TYPE,
    DiscoveryRequest,
    decode_request,
    encode_pair,
    encode_response,
    encode_roots,
)
from pilot_agent.wire import WireError, fields


def test_a_request_is_read_as_envoy_means_it() -> None:
    message = discovery_pb2.DiscoveryRequest(
        version_info="v/1",
        node=Node(id="sidecar~1.2.3.4~a.b~c", cluster="x", user_agent_name="envoy"),
        resource_names=["default", "ROOTCA"],
        type_url=SECRET_TYPE,
        response_nonce="n",
        error_detail=Status(code=13, message="bad key"),
    )
    assert decode_request(message.SerializeToString()) == DiscoveryRequest(
        version_info="v/1",
        node_id="sidecar~1.2.3.4~a.b~c",
        resource_names=("default", "ROOTCA"),
        type_url=SECRET_TYPE,
        response_nonce="n",
        error_code=13,
        error_message="bad key",
    )


def test_an_empty_error_detail_is_a_nack_too_and_a_missing_one_is_none() -> None:
    empty = discovery_pb2.DiscoveryRequest(error_detail=Status())
    assert decode_request(empty.SerializeToString()).error_message == ""
    assert decode_request(b"") == DiscoveryRequest()


@given(st.binary(max_size=80))
def test_bytes_that_are_no_request_are_refused_or_read_but_never_crash(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(decode_request(data), DiscoveryRequest)


def test_a_response_with_a_pair_and_roots_is_what_envoy_reads() -> None:
    data = encode_response(
        version_info="2026/1",
        nonce="n",
        secrets=[
            encode_pair("default", chain_pem=b"chain", key_pem=b"key"),
            encode_roots("ROOTCA", roots_pem=b"roots", crl_path="/crl.pem"),
        ],
    )

    response = discovery_pb2.DiscoveryResponse.FromString(data)
    pair, roots = Secret(), Secret()
    assert response.resources[0].Unpack(pair)
    assert response.resources[1].Unpack(roots)
    assert (response.version_info, response.nonce, response.type_url) == ("2026/1", "n", SECRET_TYPE)
    assert pair == Secret(
        name="default",
        tls_certificate={
            "certificate_chain": {"inline_bytes": b"chain"},
            "private_key": {"inline_bytes": b"key"},
        },
    )
    assert roots == Secret(
        name="ROOTCA",
        validation_context={"trusted_ca": {"inline_bytes": b"roots"}, "crl": {"filename": "/crl.pem"}},
    )
    expected = discovery_pb2.DiscoveryResponse(version_info="2026/1", type_url=SECRET_TYPE, nonce="n")
    for secret in (pair, roots):
        packed = Any()
        packed.Pack(secret)
        expected.resources.append(packed)
    assert response == expected


@pytest.mark.parametrize(("name", "method"), [("cryptomb", "CryptoMb"), ("qat", "Qat")])
def test_a_key_provider_gets_the_key_and_the_whole_poll_delay(name: str, method: str) -> None:
    provider = {name: {"pollDelay": "1.5s", "fallback": True}}
    secret = Secret.FromString(encode_pair("default", chain_pem=b"chain", key_pem=b"key", provider=provider))

    found = secret.tls_certificate.private_key_provider
    assert (found.provider_name, found.fallback) == (name, True)
    assert found.typed_config.type_url == (
        "type.googleapis.com/envoy.extensions.private_key_providers."
        f"{name}.v3alpha.{method}PrivateKeyMethodConfig"
    )
    key, delay = fields(found.typed_config.value)  # both methods: private_key = 1, poll_delay = 2
    assert DataSource.FromString(found.typed_config.value[key.start : key.end]).inline_bytes == b"key"
    assert Duration.FromString(found.typed_config.value[delay.start : delay.end]) == Duration(
        seconds=1, nanos=500_000_000
    )
    assert (key.number, delay.number) == (1, 2)
    assert not secret.tls_certificate.HasField("private_key")
