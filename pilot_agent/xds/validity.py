"""Until when a certificate is valid, read from its DER bytes without a cryptography library."""

from datetime import UTC, datetime

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _EXPLICIT_0 = 0x30, 0x17, 0x18, 0xA0


def not_after(certificate: bytes) -> datetime:
    """Return the end of validity of an X.509 certificate (DER), UTC.

    Raises:
        ValueError: the bytes are no certificate.
    """
    _, start, _ = _element(certificate, 0, _SEQUENCE)
    _, at, _ = _element(certificate, start, _SEQUENCE)  # tbsCertificate
    if certificate[at : at + 1] == bytes([_EXPLICIT_0]):
        at = _element(certificate, at)[2]  # version
    for _ in ("serialNumber", "signature", "issuer"):
        at = _element(certificate, at)[2]
    _, at, _ = _element(certificate, at, _SEQUENCE)  # validity
    at = _element(certificate, at)[2]  # notBefore
    tag, start, end = _element(certificate, at)
    return _time(tag, certificate[start:end])


def _element(data: bytes, at: int, wanted: int | None = None) -> tuple[int, int, int]:
    """Return tag, start and end of the content of the element at `at`."""
    if at + 2 > len(data):
        raise ValueError(f"DER element cut off at offset {at}")
    tag, length, start = data[at], data[at + 1], at + 2
    if length > 0x7F:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError(f"DER element of {length} bytes at offset {at}: only {len(data) - start} left")
    if wanted is not None and tag != wanted:
        raise ValueError(f"DER tag got={tag:#x} expected={wanted:#x} at offset {at}")
    return tag, start, start + length


def _time(tag: int, text: bytes) -> datetime:
    digits = text.decode("ascii", "replace").removesuffix("Z")
    if tag == _UTC_TIME:  # two digits of year: 50 to 99 are the 1900s (RFC 5280)
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"DER tag got={tag:#x} expected a time")
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
