"""Service account tokens as Kubernetes projects them: signed JWTs with audience istio-ca (ES256)."""

import base64
import binascii
import json
import time
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

AUDIENCE = "istio-ca"
_ISSUER = "https://kubernetes.default.svc.cluster.local"


class TokenError(ValueError):
    """The token does not prove an identity; the text says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    namespace: str
    service_account: str

    def spiffe_id(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


class TokenIssuer:
    """Mints and checks tokens with one key, as an API server would."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def mint(
        self, namespace: str, service_account: str, *, ttl_s: float = 3600.0, audience: str = AUDIENCE
    ) -> str:
        """Return a token; a negative `ttl_s` gives one that has expired already."""
        now = time.time()
        claims = {
            "aud": [audience],
            "exp": int(now + ttl_s),
            "iat": int(now),
            "iss": _ISSUER,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": service_account}},
            "nbf": int(min(now, now + ttl_s)),
            "sub": f"system:serviceaccount:{namespace}:{service_account}",
        }
        signed = f"{_encode_json({'alg': 'ES256', 'typ': 'JWT'})}.{_encode_json(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def check(self, token: str) -> Identity:
        """Return whom the token names.

        Raises:
            TokenError: malformed, signed by somebody else, expired, or for another audience.
        """
        signed, _, signature = token.rpartition(".")
        try:
            raw = _decode(signature)
            r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
            self._key.public_key().verify(
                encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256())
            )
            claims = json.loads(_decode(signed.partition(".")[2]))
        except (ValueError, InvalidSignature) as error:
            raise TokenError("the token is malformed or not signed by the lab") from error
        return _identity(claims)


def _identity(claims: dict[str, Any]) -> Identity:  # Any: JSON
    if AUDIENCE not in claims["aud"]:
        raise TokenError(f"token audience got={claims['aud']} expected={AUDIENCE}")
    if claims["exp"] <= time.time():
        raise TokenError(f"the token expired {time.time() - claims['exp']:.0f} s ago")
    _, _, namespace, service_account = claims["sub"].split(":")
    return Identity(namespace, service_account)


def _encode_json(value: object) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from error
