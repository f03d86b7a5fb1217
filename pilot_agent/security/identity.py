"""The workload's name in the mesh."""


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """Return the SPIFFE ID; nothing is escaped and empty parts stay empty, as in the reference."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
