"""The two types that the agent itself consumes: name table (NDS) and trust bundle (PCDS).

Only the first resource counts. Whatever is wrong with it makes a NACK, whose text is the error's.

Source: the reference's xDS proxy, responses.
"""

from typing import Final, Protocol

from pilot_agent.wire import WireError
from pilot_agent.xds.envelope import DeltaResponse, SotwResponse, Spans
from pilot_agent.xds.type_urls import NAME_TABLE, PROXY_CONFIG

_CA_CERTIFICATES_PEM: Final = 34


class InternalTypeError(ValueError):
    """The resource cannot be used; the text goes to istiod as error detail."""


class Consumer(Protocol):
    """Who takes what the agent consumes; either may raise InternalTypeError."""

    def name_table(self, body: bytes) -> None: ...
    def trust_bundle(self, ca_certificates_pem: tuple[str, ...]) -> None: ...


def handed_over(response: SotwResponse | DeltaResponse, consumer: Consumer) -> str | None:
    """Give a response that has a resource to its consumer; return why it is rejected, None if it is not."""
    try:
        if response.type_url == NAME_TABLE:
            consumer.name_table(name_table(response))
        else:
            consumer.trust_bundle(ca_certificates_pem(response))
    except InternalTypeError as error:
        return str(error)
    return None


def name_table(response: SotwResponse | DeltaResponse) -> bytes:
    """Return the encoded NameTable of a response that has a resource; its consumer looks into it.

    Raises:
        InternalTypeError: it is no message of that type.
    """
    try:
        return _first_value(response, NAME_TABLE).data
    except WireError as error:
        raise malformed(NAME_TABLE, error) from error


def malformed(type_url: str, error: Exception) -> InternalTypeError:
    """Return the error of a resource that cannot be read."""
    return InternalTypeError(f"malformed {type_url}: {error}")


def ca_certificates_pem(response: SotwResponse | DeltaResponse) -> tuple[str, ...]:
    """Return the trust anchors of a response that has a resource.

    Raises:
        InternalTypeError: it has none that can be read.
    """
    try:
        return tuple(pem.decode() for pem in _first_value(response, PROXY_CONFIG).all(_CA_CERTIFICATES_PEM))
    except (WireError, UnicodeDecodeError) as error:
        raise malformed(PROXY_CONFIG, error) from error


def _first_value(response: SotwResponse | DeltaResponse, type_url: str) -> Spans:
    """Return the message inside the first resource's Any."""
    resource = response.spans.data, *next(response.spans.bounds(2))
    wrapped = Spans(*resource)
    if isinstance(response, DeltaResponse):
        resource_any = wrapped.last(2)
        if resource_any is None:
            raise InternalTypeError(f"resource of {type_url} without content")
        wrapped = Spans(resource_any)
    got = wrapped.text(1)
    if got != type_url:
        raise InternalTypeError(f"resource type got={got} expected={type_url}")
    return Spans(wrapped.last(2) or b"")
