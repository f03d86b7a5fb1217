"""SDS requests, both variants, beside Google's own reading of the same bytes."""

from typing import Final

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from pilot_agent.security.sds_delta import decode_delta_request
from pilot_agent.security.sds_wire import SECRET_TYPE, decode_request
from pilot_agent.wire import WireError

_NODE: Final = {"id": "sidecar~1"}


def target(data: bytes) -> None:
    """Where both read it, they must agree; where we refuse, protobuf need not."""
    _sotw(data)
    _delta(data)


def _sotw(data: bytes) -> None:
    try:
        ours = decode_request(data)
        theirs = discovery_pb2.DiscoveryRequest.FromString(data)
    except (WireError, DecodeError):
        return
    assert ours.resource_names == tuple(theirs.resource_names)
    assert (ours.type_url, ours.version_info) == (theirs.type_url, theirs.version_info)
    assert ours.response_nonce == theirs.response_nonce
    assert (ours.error_message is None) == (not theirs.HasField("error_detail"))


def _delta(data: bytes) -> None:
    try:
        ours = decode_delta_request(data)
        theirs = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
    except (WireError, DecodeError):
        return
    assert ours.subscribe == tuple(theirs.resource_names_subscribe)
    assert ours.unsubscribe == tuple(theirs.resource_names_unsubscribe)
    assert (ours.type_url, ours.response_nonce) == (theirs.type_url, theirs.response_nonce)
    # An entry with something unknown inside is none at all for their reader.
    assert set(theirs.initial_resource_versions) <= set(ours.initial_versions)


def seeds() -> list[bytes]:
    detail = Status(code=13, message="bad key")
    sotw = discovery_pb2.DiscoveryRequest(
        version_info="1",
        node=_NODE,
        resource_names=["default", "ROOTCA"],
        type_url=SECRET_TYPE,
        response_nonce="n",
        error_detail=detail,
    )
    delta = discovery_pb2.DeltaDiscoveryRequest(
        node=_NODE,
        type_url=SECRET_TYPE,
        resource_names_subscribe=["default", "file-cert:a~b"],
        resource_names_unsubscribe=["ROOTCA"],
        initial_resource_versions={"default": "1", "ROOTCA": "2"},
        response_nonce="n",
        error_detail=detail,
    )
    return [bytes(each.SerializeToString()) for each in (sotw, delta)]
