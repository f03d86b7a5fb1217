"""Which name a control-plane certificate must have."""

from typing import Final

ISTIOD_NAME: Final = "istiod.istio-system.svc"


def server_name(address: str, override: str = "") -> str:
    """Return the TLS server name for `address` (host:port); empty where the address has no port.

    Source: the reference's TLS options: the override (ISTIOD_SAN) wins; a host with `localhost` in it
    stands for istiod.
    """
    if override:
        return override
    host, colon, _port = address.rpartition(":")
    if not colon:
        return ""
    return ISTIOD_NAME if "localhost" in host else host.removeprefix("[").removesuffix("]")
