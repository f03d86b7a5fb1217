"""What ends the agent while Envoy's configuration is being made (exit status 255)."""

from typing import Final

_METADATA: Final = "failed to initialize envoy agent: failed to generate bootstrap metadata: "
_CONFIG: Final = "failed to initialize envoy agent: failed to generate bootstrap config: "


class BootstrapError(ValueError):
    """Envoy's configuration cannot be made; the text is the reference's."""

    @classmethod
    def of_metadata(cls, reason: object) -> "BootstrapError":
        """Return the error for node metadata that does not fit its type."""
        return cls(f"{_METADATA}{reason}")

    @classmethod
    def of_config(cls, reason: object) -> "BootstrapError":
        """Return the error for a template, an address or a member that cannot be rendered."""
        return cls(f"{_CONFIG}{reason}")
