"""Reads the envelope of the four discovery messages; resources stay where they are, as offsets.

One pass over the top-level fields, nothing copied but the short texts. Every length is checked, and
the work is bounded by the number of fields, which has a limit of its own: a field may have two bytes,
and what is noted of it takes a hundred. Measured: 10 MB with 500 resources 0.2 ms, 20,000
resources 8 ms; `pilot_agent.wire.fields`, which yields an object a field, needs four times as long.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from pilot_agent.wire import WireError, fields

Span = tuple[int, int]
"""Start and end of one field's bytes, without tag and length."""

_NONE: Final[list[int]] = []
LABEL_LIMIT_BYTES: Final = 1 << 14
"""Of a type URL, version or nonce; istiod's have some hundred bytes."""
FIELDS_LIMIT: Final = 1 << 20
"""Of one message: some 110 MB while it is looked at. The largest pushes have some ten thousand resources."""


class Spans:
    """The length-delimited top-level fields of one message, by number; others are skipped."""

    __slots__ = ("_found", "data")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        """Scan `data[start:end]`.

        Raises:
            WireError: the bytes are no protobuf message.
        """
        self.data = data
        self._found = _scan(data, start, len(data) if end is None else end)

    def text(self, number: int) -> str:
        """Return a string field; the last one wins, and a missing one is empty, as in proto3."""
        found = self._found.get(number)
        if not found:
            return ""
        try:
            return self.data[found[-2] : found[-1]].decode()
        except UnicodeDecodeError as error:
            raise WireError(f"field {number} is no UTF-8 text: {error}") from None

    def label(self, number: int) -> str:
        """Return a string field that is noted, logged and compared: of LABEL_LIMIT_BYTES at most.

        Raises:
            WireError: it is longer, or no text.
        """
        found = self._found.get(number, _NONE)
        for at in range(0, len(found), 3):
            if (size_bytes := found[at + 2] - found[at + 1]) > LABEL_LIMIT_BYTES:
                raise WireError(f"field {number} of {size_bytes} bytes: at most {LABEL_LIMIT_BYTES} are read")
        return self.text(number) if found else ""

    def last(self, number: int) -> bytes | None:
        """Return the bytes of the last field of this number, None if there is none."""
        found = self._found.get(number)
        return self.data[found[-2] : found[-1]] if found else None

    def all(self, number: int) -> list[bytes]:
        """Return the bytes of each field of this number, in order."""
        data, found = self.data, self._found.get(number, _NONE)
        return [data[found[at + 1] : found[at + 2]] for at in range(0, len(found), 3)]

    def bounds(self, number: int) -> Iterator[Span]:
        """Yield the bounds of each field of this number, in order."""
        found = self._found.get(number, _NONE)
        for at in range(0, len(found), 3):
            yield found[at + 1], found[at + 2]

    def count(self, number: int) -> int:
        return len(self._found.get(number, _NONE)) // 3

    def encoded(self, number: int) -> bytes:
        """Return the fields of this number with their tags, ready to stand in another message."""
        data, found = self.data, self._found.get(number, _NONE)
        return b"".join(data[found[at] : found[at + 2]] for at in range(0, len(found), 3))

    def without(self, *numbers: int) -> bytes:
        """Return the message without the fields of these numbers; all else, unknown fields too, stays."""
        cuts = sorted(
            (found[at], found[at + 2])
            for found in (self._found.get(number, _NONE) for number in numbers)
            for at in range(0, len(found), 3)
        )
        kept, done = [], 0
        for begin, end in cuts:
            kept.append(self.data[done:begin])
            done = end
        return b"".join((*kept, self.data[done:]))


class SotwRequest(NamedTuple):
    """DiscoveryRequest."""

    type_url: str
    version_info: str
    response_nonce: str
    has_node: bool
    is_nack: bool
    spans: Spans  # 1 version_info, 2 node, 3 resource_names, 4 type_url, 5 response_nonce, 6 error_detail

    def error_text(self) -> str:
        """Return why Envoy rejected a response; empty where it did not."""
        return _status_message(self.spans.last(6))


class SotwResponse(NamedTuple):
    """DiscoveryResponse."""

    type_url: str
    version_info: str
    nonce: str
    resource_count: int
    spans: Spans  # 2 resources (Any)


class DeltaRequest(NamedTuple):
    """DeltaDiscoveryRequest."""

    type_url: str
    response_nonce: str
    has_node: bool
    is_nack: bool
    subscribe: list[bytes]
    unsubscribe: list[bytes]
    spans: Spans  # 1 node, 2 type_url, 5 initial_resource_versions, 6 response_nonce, 7 error_detail

    def error_text(self) -> str:
        """Return why Envoy rejected a response; empty where it did not."""
        return _status_message(self.spans.last(7))

    def initial_resource_versions(self) -> dict[bytes, bytes]:
        """Return name → version of what the client says it holds."""
        data = self.spans.data
        entries = (Spans(data, start, end) for start, end in self.spans.bounds(5))
        return {entry.last(1) or b"": entry.last(2) or b"" for entry in entries}


class DeltaResponse(NamedTuple):
    """DeltaDiscoveryResponse."""

    type_url: str
    nonce: str
    resource_count: int
    removed: list[bytes]
    spans: Spans  # 2 resources (Resource: 1 version, 2 resource, 3 name)

    def versions(self) -> dict[bytes, bytes]:
        """Return name → version of the resources."""
        return _versions(self.spans)


class DeltaNames(NamedTuple):
    """What a DeltaDiscoveryResponse does to the names that its receiver holds."""

    type_url: str
    nonce: str
    versions: dict[bytes, bytes]  # name → version
    removed: list[bytes]


def read_sotw_request(data: bytes) -> SotwRequest:
    """Raises: WireError."""
    spans = Spans(data)
    return SotwRequest(
        spans.label(4), spans.label(1), spans.label(5), spans.count(2) > 0, spans.count(6) > 0, spans
    )


def read_sotw_response(data: bytes) -> SotwResponse:
    """Raises: WireError."""
    spans = Spans(data)
    return SotwResponse(spans.label(4), spans.label(1), spans.label(5), spans.count(2), spans)


def read_delta_request(data: bytes) -> DeltaRequest:
    """Raises: WireError."""
    spans = Spans(data)
    return DeltaRequest(
        type_url=spans.label(2),
        response_nonce=spans.label(6),
        has_node=spans.count(1) > 0,
        is_nack=spans.count(7) > 0,
        subscribe=spans.all(3),
        unsubscribe=spans.all(4),
        spans=spans,
    )


def read_delta_response(data: bytes) -> DeltaResponse:
    """Raises: WireError."""
    spans = Spans(data)
    return DeltaResponse(spans.label(4), spans.label(5), spans.count(2), spans.all(6), spans)


def read_delta_names(data: bytes) -> DeltaNames:  # noqa: C901, PLR0912  # 20,000 times through one loop
    """Read what a DeltaDiscoveryResponse says of names, in one pass that notes nothing else.

    Resources that are version, content and name alone and in this order, as istiod writes them, are read in
    place: 20,000 take 12 ms, by `read_delta_response` and its `versions` 85. `Spans` reads whatever else
    there is.

    Raises:
        WireError: `data` is no such message.
    """
    at, size = _behind_version(data), len(data)
    versions: dict[bytes, bytes] = {}
    try:
        for _ in range(FIELDS_LIMIT):
            if data[at] != _RESOURCES_TAG:
                break
            if (length := data[at + 1]) < 0x80:
                inner = at + 2
            elif (more := data[at + 2]) < 0x80:  # by far the most: below 16 KiB
                inner, length = at + 3, length + (more << 7) - 0x80
            else:
                length, inner = _long_length(data, at + 2, length)
            end, version = inner + length, b""
            if data[inner] == _VERSION_TAG and (length := data[inner + 1]) < 0x80:
                inner += 2 + length
                version = data[inner - length : inner]
            if data[inner] == _CONTENT_TAG:
                if (length := data[inner + 1]) < 0x80:
                    inner += 2 + length
                elif (more := data[inner + 2]) < 0x80:
                    inner += 3 + length + (more << 7) - 0x80
                else:
                    length, inner = _long_length(data, inner + 2, length)
                    inner += length
            if (
                data[inner] != _NAME_TAG
                or (length := data[inner + 1]) > 0x7F
                or not inner + 2 + length == end <= size
            ):
                break
            versions[data[inner + 2 : end]] = version
            at = end
    except IndexError:  # the last field has ended, or is cut off
        pass
    rest = Spans(data, at)
    if rest.count(_RESOURCES):
        versions |= _versions(rest)
    return DeltaNames(rest.label(4), rest.label(5), versions, rest.all(6))


_VERSION_TAG, _CONTENT_TAG, _NAME_TAG = 0x0A, 0x12, 0x1A  # of Resource: fields 1, 2 and 3
_RESOURCES, _RESOURCES_TAG = 2, 0x12  # of DeltaDiscoveryResponse; its version is field 1, too


def _versions(response: Spans) -> dict[bytes, bytes]:
    data = response.data
    entries = (Spans(data, start, end) for start, end in response.bounds(2))
    return {entry.last(3) or b"": entry.last(1) or b"" for entry in entries}


def _behind_version(data: bytes) -> int:
    """Return the offset behind system_version_info, if the message begins with a short one."""
    if len(data) > 1 and data[0] == _VERSION_TAG and data[1] < 0x80 and 2 + data[1] <= len(data):
        return 2 + data[1]
    return 0


def _status_message(status: bytes | None) -> str:
    """Return the message of a google.rpc.Status."""
    try:
        return Spans(status or b"").text(2)
    except WireError:
        return "unreadable"


def _scan(data: bytes, at: int, stop: int) -> dict[int, list[int]]:  # noqa: C901  # the same
    """Return field number → flat list of (offset of the tag, start, end) of its occurrences."""
    found: dict[int, list[int]] = {}
    last_tag, flat = -1, _NONE
    if stop > len(data):
        raise WireError(f"message of {stop} bytes: only {len(data)} there")
    try:
        for _ in range(FIELDS_LIMIT):
            if at >= stop:
                return found
            tag_at, tag = at, data[at]
            if tag != last_tag:
                if tag > 0x7F or tag & 7 != 2 or tag < 8:
                    at = _other_field(data, at, stop, found)
                    continue
                last_tag, flat = tag, found.setdefault(tag >> 3, [])
            length = data[at + 1]
            if length < 0x80:
                at += 2
            elif (more := data[at + 2]) < 0x80:  # by far the most: below 16 KiB
                length += (more << 7) - 0x80
                at += 3
            else:
                length, at = _long_length(data, at + 2, length)
            end = at + length
            if end > stop:
                raise WireError(f"field {tag >> 3} of {length} bytes at offset {at}: only {stop - at} left")
            flat += (tag_at, at, end)
            at = end
    except IndexError:
        raise WireError(f"field cut off at offset {len(data)}") from None
    if at < stop:
        raise WireError(f"more than {FIELDS_LIMIT} fields")
    return found


def _long_length(data: bytes, at: int, first: int) -> Span:
    length, shift = first & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, at
        shift += 7
        if shift > 63:
            raise WireError(f"varint of more than ten bytes at offset {at}")


def _other_field(data: bytes, at: int, stop: int, found: dict[int, list[int]]) -> int:
    """Read one field that is not length-delimited, or whose number needs more than one byte."""
    field = next(fields(data, at, stop))
    if field.wire_type == 2:
        found.setdefault(field.number, []).extend((at, field.start, field.end))
    return field.end
