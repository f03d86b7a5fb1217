"""One type's accepted resources, as its file's records amount to; and the responses made of them.

Resources are looked at for their names alone: those of a delta response stand beside them, those of a
state-of-the-world response are field 1 of the resource itself (so in every resource of Envoy's).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from pilot_agent.unreadable import UNREADABLE
from pilot_agent.wire import WireError, bytes_field, message, text_field
from pilot_agent.xds.envelope import Span, Spans, read_delta_response, read_sotw_response
from pilot_agent.xds.known_good import records
from pilot_agent.xds.known_good.records import StoreError
from pilot_agent.xds.requests import Variant
from pilot_agent.xds.type_urls import ENDPOINTS, PREFIX

NAMED_TYPES: Final = frozenset(
    {
        ENDPOINTS,
        PREFIX + "envoy.config.route.v3.RouteConfiguration",
        PREFIX + "envoy.config.core.v3.TypedExtensionConfig",
    }
)
"""In the state-of-the-world variant a response of these may carry a part of what was asked for; of all
other types it carries everything."""

_RESOURCES, _TYPE_URL, _NONCE = 2, 4, 5
VERSION_KEY: Final = b""
"""In a RETAIN of the state-of-the-world variant: the version that the rest must have, else it goes."""


class Resource(msgspec.Struct, frozen=True):
    """One resource: the encoded Any, or in delta the encoded Resource, as istiod sent it."""

    version: bytes
    body: bytes


class Content:
    """The accepted resources of one type, by name."""

    def __init__(self, variant: Variant, type_url: str) -> None:
        self.variant, self.type_url = variant, type_url
        self.version = ""  # of the last response
        self.resources: dict[bytes, Resource] = {}

    def accept(self, response: bytes, offset: int = 0) -> None:
        """Take a response in, which stands at this offset of its file.

        Raises:
            WireError: it, or a resource in it, is malformed.
        """
        if self.variant == "delta":
            self._accept_delta(response, offset)
        else:
            self._accept_sotw(response, offset)

    def retain(self, claims: dict[bytes, bytes]) -> None:
        """Keep what `claims` names; see `keeper.Retain`."""
        if self.variant == "sotw" and VERSION_KEY in claims:
            if self.version != claims[VERSION_KEY].decode(errors="replace"):
                self.resources.clear()
            return
        self.resources = {
            name: one
            for name, one in self.resources.items()
            if name in claims and claims[name] in (b"", one.version)
        }

    def response(self, names: Iterable[bytes], nonce: str) -> bytes:
        """Return a response with these resources, as far as they are here."""
        return message(*self.parts(names, nonce))

    def parts(self, names: Iterable[bytes], nonce: str) -> Iterator[bytes]:
        """Yield that response piece by piece."""
        yield text_field(1, self.version)
        for name in names:
            if name in self.resources:
                yield bytes_field(_RESOURCES, self.held(self.resources[name]))
        yield text_field(_TYPE_URL, self.type_url)
        yield text_field(_NONCE, nonce)

    def held(self, resource: Resource) -> bytes:
        """Return a resource's bytes."""
        return resource.body

    def _accept_delta(self, response: bytes, offset: int) -> None:
        seen = read_delta_response(response)
        for start, end in seen.spans.bounds(_RESOURCES):
            one = Spans(response, start, end)
            name = one.last(3) or b""
            self.resources[name] = Resource(one.last(1) or b"", self._body(response, (start, end), offset))
        for name in seen.removed:
            self.resources.pop(name, None)
        self.version = seen.spans.text(1) or self.version

    def _accept_sotw(self, response: bytes, offset: int) -> None:
        seen = read_sotw_response(response)
        if self.type_url not in NAMED_TYPES:
            self.resources.clear()
        self.version = seen.version_info
        version = seen.version_info.encode()
        for number, (start, end) in enumerate(seen.spans.bounds(_RESOURCES)):
            name = _name_in(response, start, end) or b"#%d" % number
            self.resources[name] = Resource(version, self._body(response, (start, end), offset))

    def _body(self, response: bytes, where: Span, offset: int) -> bytes:
        """Return what is kept of a resource."""
        del offset
        return response[where[0] : where[1]]


def read_content(
    data: records.Buffer, make: Callable[[Variant, str], Content] = Content
) -> tuple[records.Header, Content]:
    """Return what a file holds, in what `make` makes; one record is in memory at a time.

    Raises:
        StoreError: it is damaged, or holds what is no response.
    """
    header, at = records.read_header(data)
    variant: Variant = "delta" if header.variant == "delta" else "sotw"
    content = make(variant, header.type_url)
    for found in records.walk(data, at):
        body = records.read_body(data, found)
        try:
            if found.kind == records.ACCEPTED:
                content.accept(body, found.start)
            elif found.kind == records.RETAIN:
                content.retain(msgspec.msgpack.decode(body, type=dict[bytes, bytes]))
        except (WireError, *UNREADABLE) as error:
            raise StoreError(f"the record at offset {found.start} is no response: {error}") from error
        del body  # else it would be held while the next is read
    return header, content


def _name_in(response: bytes, start: int, end: int) -> bytes | None:
    value = Spans(response, start, end).last(2)
    return Spans(value).last(1) if value else None
