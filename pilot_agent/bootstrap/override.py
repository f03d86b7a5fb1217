"""ISTIO_BOOTSTRAP_OVERRIDE: a file that Envoy merges over its configuration (`--config-yaml`)."""

from pathlib import Path
from typing import Any

import msgspec

from pilot_agent.log import get_logger
from pilot_agent.proxyconfig.text import parsed

_log = get_logger()


def read_override(path: Path, host_ip: str) -> str | None:
    """Return the file as one compact JSON text with sorted members, or None with a warning."""
    try:
        return override_text(path.read_text(encoding="utf-8"), host_ip)
    except (OSError, ValueError) as error:
        _log.warn(f"Failed to read bootstrap override: {error}")
        return None


def override_text(text: str, host_ip: str) -> str:
    """Return the JSON that a YAML or JSON override means, `$(HOST_IP)` replaced.

    An IPv6 address stands in brackets once, whether or not the text had them.

    Raises:
        ValueError: the text is neither YAML nor JSON.
    """
    shown = f"[{host_ip}]" if ":" in host_ip else host_ip
    text = text.replace("[$(HOST_IP)]", shown).replace("$(HOST_IP)", shown)
    value: Any = parsed(text)  # Any: JSON
    return msgspec.json.encode(value, order="deterministic").decode()
