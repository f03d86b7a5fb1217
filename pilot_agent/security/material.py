"""What is served under one name: a key pair or roots, each state of it with a version."""

import msgspec

from pilot_agent.redacted import without


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair has both PEMs of the pair; roots have `trusted_ca_pem` alone."""

    name: str  # "default", "ROOTCA" or a "file-…:" name
    version_info: str
    certificate_chain_pem: bytes = b""
    private_key_pem: bytes = b""
    trusted_ca_pem: bytes = b""
    not_after_unix_s: float = 0.0  # 0.0: no end of its own (roots)

    __repr__ = without("private_key_pem")

    def valid(self, now_unix_s: float) -> bool:
        """Return whether it may be handed out now."""
        return not self.not_after_unix_s or self.not_after_unix_s > now_unix_s
