"""What can go wrong on the way to a certificate, sorted by what the caller can do."""


class SecurityError(Exception):
    """Material cannot be had; the text is what Envoy's stream is told."""


class CsrError(SecurityError):
    """Key or CSR cannot be made with these settings: only a changed setting can help."""


class CaError(SecurityError):
    """The CA gave no certificate."""


class CaUnavailable(CaError):  # noqa: N818  # a state, not a fault
    """The CA could not be reached, or said to try later: retried with backoff."""


class CaRefused(CaError):  # noqa: N818
    """The CA refused the CSR or the token, or its answer is unusable: the same request cannot help."""


class FileError(SecurityError):
    """Certificate files cannot be read, or do not belong together."""
