"""Looks descriptors up for gRPC reflection, in a short-lived process: it imports protobuf.

Never to be imported by the supervisor or an actor.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool

from pilot_agent.xds import reflection

_LABEL_OPTIONAL, _LABEL_REPEATED = 1, 3
_TYPE_INT32, _TYPE_STRING, _TYPE_BYTES, _TYPE_MESSAGE = 5, 9, 12, 11

# Message → its fields: name, number, type, repeated, message type, whether in the message's oneof.
_Field = tuple[str, int, int, bool, str, bool]
_MESSAGES: Final[dict[str, tuple[str, tuple[_Field, ...]]]] = {
    "ServerReflectionRequest": (
        "message_request",
        (
            ("host", 1, _TYPE_STRING, False, "", False),
            ("file_by_filename", 3, _TYPE_STRING, False, "", True),
            ("file_containing_symbol", 4, _TYPE_STRING, False, "", True),
            ("file_containing_extension", 5, _TYPE_MESSAGE, False, "ExtensionRequest", True),
            ("all_extension_numbers_of_type", 6, _TYPE_STRING, False, "", True),
            ("list_services", 7, _TYPE_STRING, False, "", True),
        ),
    ),
    "ExtensionRequest": (
        "",
        (
            ("containing_type", 1, _TYPE_STRING, False, "", False),
            ("extension_number", 2, _TYPE_INT32, False, "", False),
        ),
    ),
    "ServerReflectionResponse": (
        "message_response",
        (
            ("valid_host", 1, _TYPE_STRING, False, "", False),
            ("original_request", 2, _TYPE_MESSAGE, False, "ServerReflectionRequest", False),
            ("file_descriptor_response", 4, _TYPE_MESSAGE, False, "FileDescriptorResponse", True),
            ("all_extension_numbers_response", 5, _TYPE_MESSAGE, False, "ExtensionNumberResponse", True),
            ("list_services_response", 6, _TYPE_MESSAGE, False, "ListServiceResponse", True),
            ("error_response", 7, _TYPE_MESSAGE, False, "ErrorResponse", True),
        ),
    ),
    "FileDescriptorResponse": ("", (("file_descriptor_proto", 1, _TYPE_BYTES, True, "", False),)),
    "ExtensionNumberResponse": (
        "",
        (
            ("base_type_name", 1, _TYPE_STRING, False, "", False),
            ("extension_number", 2, _TYPE_INT32, True, "", False),
        ),
    ),
    "ListServiceResponse": ("", (("service", 1, _TYPE_MESSAGE, True, "ServiceResponse", False),)),
    "ServiceResponse": ("", (("name", 1, _TYPE_STRING, False, "", False),)),
    "ErrorResponse": (
        "",
        (
            ("error_code", 1, _TYPE_INT32, False, "", False),
            ("error_message", 2, _TYPE_STRING, False, "", False),
        ),
    ),
}


def reflect(request: bytes) -> bytes:
    """Return the encoded `message_response` for a ServerReflectionRequest about a file or a symbol."""
    question = reflection.read_question(request)
    pool = _pool()
    try:
        if question.kind == "file_by_filename":
            found = pool.FindFileByName(question.text)
        else:
            found = pool.FindFileContainingSymbol(question.text)
    except KeyError:
        return reflection.error(reflection.NOT_FOUND, f"not found: {question.text}")
    return reflection.files(_with_dependencies(found))


def _pool() -> descriptor_pool.DescriptorPool:
    """Return all that the socket's services are made of."""
    from envoy.service.discovery.v3 import ads_pb2  # noqa: F401, PLC0415  # fills the default pool

    pool = descriptor_pool.Default()
    for version in ("v1", "v1alpha"):
        pool.AddSerializedFile(_reflection_file(version).SerializeToString())
    return pool


def _with_dependencies(file: Any) -> list[bytes]:  # Any: FileDescriptor has no stable typed name
    """Return a file and all that it imports, each once, the file itself first."""
    found: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop()
        if each.name not in found:
            found[each.name] = each.serialized_pb
            waiting.extend(each.dependencies)
    return list(found.values())


def _reflection_file(version: str) -> descriptor_pb2.FileDescriptorProto:
    """Return the descriptor of the reflection service itself, whose generated code is not installed."""
    package = f"grpc.reflection.{version}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"grpc/reflection/{version}/reflection.proto", package=package, syntax="proto3"
    )
    for name, (oneof, members) in _MESSAGES.items():
        described = file.message_type.add(name=name)
        if oneof:
            described.oneof_decl.add(name=oneof)
        for member in members:
            _add_field(described, member, package)
    file.service.add(name="ServerReflection").method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


def _add_field(described: descriptor_pb2.DescriptorProto, member: _Field, package: str) -> None:
    name, number, kind, repeated, message_type, in_oneof = member
    added = described.field.add(
        name=name, number=number, type=kind, label=_LABEL_REPEATED if repeated else _LABEL_OPTIONAL
    )
    if message_type:
        added.type_name = f".{package}.{message_type}"
    if in_oneof:
        added.oneof_index = 0
