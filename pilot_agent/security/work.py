"""What goes to the workers and comes back: JSON, so that the key worker needs no further import.

A result is the encoded tuple, or `{"failed": <error class>, "text": …, "retries": n}`, from which
`result` makes the exception again on the asking side.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pilot_agent.environment import Environment
from pilot_agent.redacted import text
from pilot_agent.security.errors import CaRefused, CaUnavailable, CsrError, FileError, SecurityError
from pilot_agent.security.identity import spiffe_id

T = TypeVar("T")

_ERRORS: Final[Mapping[str, type[SecurityError]]] = {
    kind.__name__: kind for kind in (CaUnavailable, CaRefused, CsrError, FileError)
}


class KeyParameters(NamedTuple):
    """Which key, for whom (secret manager, certificate signing request)."""

    spiffe_id: str
    signature_algorithm: str = ""  # "ECDSA"; empty: RSA; anything else cannot be made
    curve: str = "P256"  # "P384"; anything else is P-256
    rsa_key_bits: int = 2048
    pkcs8: bool = False

    @classmethod
    def read(cls, environment: Environment) -> "KeyParameters":
        """Return what the variables ask for; needs nothing else, so a key can be made first of all."""
        return cls(
            spiffe_id=spiffe_id(
                environment.string("TRUST_DOMAIN", "cluster.local"),
                environment.string("POD_NAMESPACE"),
                environment.string("SERVICE_ACCOUNT"),
            ),
            signature_algorithm=environment.string("ECC_SIGNATURE_ALGORITHM"),
            curve=environment.string("ECC_CURVE", "P256"),
            rsa_key_bits=environment.integer("WORKLOAD_RSA_KEY_SIZE", 2048),
            pkcs8=environment.boolean("PKCS8_KEY", default=False),
        )


class KeyMade(NamedTuple):
    """A fresh key and the CSR that it signed."""

    key_pem: str
    csr_pem: str

    def __repr__(self) -> str:
        return text(self, self._fields, "key_pem")


class TokenRequest(NamedTuple):
    """Where a token of this Google Compute Engine instance comes from, and where it is kept."""

    host: str  # of the metadata server, host or host:port
    audience: str
    path: str


class SignRequest(NamedTuple):
    """One call of the CA: where, how it is verified, who asks."""

    csr_pem: str
    address: str  # host:port
    server_name: str  # verified against the CA's certificate; empty: the host of `address`
    plaintext: bool
    root_path: str  # trust anchors of the connection; empty with `plaintext`
    client_cert_path: str = ""  # PROV_CERT; empty: no client certificate
    client_key_path: str = ""
    token_path: str = ""
    token: str = ""  # a constant token instead of the file
    token_audience: str = ""  # not empty: fetched from the metadata server for each call
    metadata_host: str = ""
    validity_s: int = 24 * 3600
    cert_signer: str = ""
    headers: tuple[tuple[str, str], ...] = ()  # (name, value), ClusterID among them
    compliance_policy: str = ""  # COMPLIANCE_POLICY, which limits TLS
    workload: str = ""  # "/ns/NAMESPACE/sa/ACCOUNT" that the answer must be for; empty: any

    def __repr__(self) -> str:
        return text(self, self._fields, "token")


class Signed(NamedTuple):
    """The CA's answer, checked against the CSR."""

    chain_pem: str  # leaf first, the root last
    root_pem: str
    not_after_unix_s: float
    lifetime_s: float  # from the certificate's begin to its end, whatever the local clock says
    serial_number: str  # lower-case hexadecimal
    call_ms: float  # all attempts together
    retries: int


class FilesRequest(NamedTuple):
    """A pair of files, or a file of roots; the other fields are empty."""

    cert_path: str = ""
    key_path: str = ""
    root_path: str = ""
    first_wait_s: float = 0.1
    limit_s: float = 10.0


class FilesRead(NamedTuple):
    """What stood in the files; a pair has been checked to belong together."""

    chain_pem: str = ""
    key_pem: str = ""
    root_pem: str = ""
    not_after_unix_s: float = 0.0
    serial_number: str = ""

    def __repr__(self) -> str:
        return text(self, self._fields, "key_pem")


Work = TokenRequest | KeyParameters | KeyMade | SignRequest | Signed | FilesRequest | FilesRead


def encode(value: Work) -> bytes:
    """Return a tuple of this module as JSON."""
    return json.dumps(value._asdict()).encode()


def decode(data: bytes, kind: type[T]) -> T:
    """Return the tuple that `encode` wrote.

    Raises:
        ValueError, TypeError: the bytes are something else.
    """
    members: dict[str, Any] = json.loads(data)  # Any: JSON
    if isinstance(members.get("headers"), list):
        members["headers"] = tuple((name, value) for name, value in members["headers"])
    return kind(**members)


def failure(error: SecurityError, *, retries: int = 0) -> bytes:
    """Return the result that stands for `error`."""
    return json.dumps({"failed": type(error).__name__, "text": str(error), "retries": retries}).encode()


def retries_of(data: bytes) -> int:
    """Return how often the worker tried again, whether it succeeded or not."""
    return int(json.loads(data).get("retries", 0))


def result(data: bytes, kind: type[T]) -> T:
    """Return what the worker made.

    Raises:
        SecurityError: the very error that ended the worker's attempt.
    """
    members = json.loads(data)
    if "failed" in members:
        raise _ERRORS.get(members["failed"], SecurityError)(members["text"])
    return decode(data, kind)
