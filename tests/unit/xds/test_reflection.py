"""Reflection without protobuf, read back by dynamic messages built from its own descriptors."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pilot_agent.wire import WireError
from pilot_agent.xds import reflect_worker, reflection


def messages(version: str) -> tuple[Any, Any]:
    """Return the request and response classes that the served descriptors describe."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(reflect_worker._reflection_file(version).SerializeToString())
    kinds = (f"grpc.reflection.{version}.ServerReflection{kind}" for kind in ("Request", "Response"))
    request, response = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in kinds)
    return request, response


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_the_services_are_listed_and_the_question_is_repeated(version: str) -> None:
    request, response = messages(version)
    asked = request(host="h", list_services="*")
    question = reflection.read_question(asked.SerializeToString())
    raw = reflection.response(question, asked.SerializeToString(), reflection.services())
    answered = response.FromString(raw)
    assert (answered.valid_host, answered.original_request) == ("h", asked)
    assert [each.name for each in answered.list_services_response.service] == list(reflection.SERVICES)


@pytest.mark.parametrize(
    "question",
    [
        {"file_containing_symbol": "envoy.service.discovery.v3.AggregatedDiscoveryService"},
        {"file_containing_symbol": "envoy.service.discovery.v3.DiscoveryRequest.node"},
        {"file_by_filename": "envoy/service/discovery/v3/ads.proto"},
        {"file_containing_symbol": "grpc.reflection.v1.ServerReflection"},
        {"file_by_filename": "grpc/reflection/v1alpha/reflection.proto"},
    ],
    ids=str,
)
def test_a_descriptor_comes_with_all_that_it_imports(question: dict[str, str]) -> None:
    request, response = messages("v1")
    answered = response.FromString(reflect_worker.reflect(request(**question).SerializeToString()))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answered.file_descriptor_response.file_descriptor_proto
    ]
    names = {file.name for file in files}
    assert len(names) == len(files)
    assert all(imported in names for file in files for imported in file.dependency)


def test_an_unknown_symbol_is_not_found() -> None:
    request, response = messages("v1")
    raw = reflect_worker.reflect(request(file_containing_symbol="no.such.Thing").SerializeToString())
    answered = response.FromString(raw)
    assert answered.error_response.error_code == 5
    assert "no.such.Thing" in answered.error_response.error_message


def test_a_request_that_asks_nothing_is_refused() -> None:
    with pytest.raises(WireError):
        reflection.read_question(b"")
