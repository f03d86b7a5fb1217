"""Who is calling: the token or client certificate of one RPC. Both services ask here first."""

from collections.abc import Mapping, Sequence
from typing import cast

import grpc

from lab.faults import Faults
from lab.tokens import Identity, TokenError, TokenIssuer


class Access:
    """Decides by the lab's own tokens, or by a certificate that the lab's CA signed."""

    def __init__(self, tokens: TokenIssuer, faults: Faults) -> None:
        self._tokens, self._faults = tokens, faults

    def identify(self, context: grpc.ServicerContext) -> Identity | None:
        """Return the caller; None on a plaintext port, where nobody is asked.

        Raises:
            TokenError: no proof, or one that does not hold.
        """
        if self._faults.refuse_tokens:
            raise TokenError("the lab was told to refuse all tokens")
        scheme, _, token = headers_of(context).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return self._tokens.check(token)
        # the stubs say bytes for what is a list of bytes
        security = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
        for name in security.get("x509_subject_alternative_name", ()):
            if name.startswith(b"spiffe://"):
                return _of_spiffe_id(name.decode())
        if security.get("transport_security_type", (b"",))[0] == b"ssl":
            raise TokenError("no bearer token and no client certificate")
        return None


def headers_of(context: grpc.ServicerContext) -> Mapping[str, str]:
    return {
        key: value if isinstance(value, str) else value.hex() for key, value in context.invocation_metadata()
    }


def _of_spiffe_id(spiffe_id: str) -> Identity:
    parts = spiffe_id.removeprefix("spiffe://").split("/")
    if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa":
        raise TokenError(f"client certificate for {spiffe_id}: expected spiffe://DOMAIN/ns/NS/sa/SA")
    return Identity(parts[2], parts[4])
