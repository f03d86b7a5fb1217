"""Microsoft Azure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pilot_agent.bootstrap.platform.metadata_server import MetadataServer
from pilot_agent.bootstrap.platform.model import Platform
from pilot_agent.unreadable import UNREADABLE

_OLDEST_VERSION: Final = "2019-08-15"
_HEADERS: Final = {"Metadata": "True"}

Json = Mapping[str, Any]  # Any: JSON values


def looks_like_azure(system: Path) -> bool:
    """Return whether the machine's vendor (below `/sys`) is Microsoft."""
    try:
        vendor = (system / "class/dmi/id/sys_vendor").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "Microsoft Corporation" in vendor


def azure(server: MetadataServer) -> Platform:
    """Return what the instance's metadata service says, in its newest version."""
    versions = _object(server.text("/metadata/instance", _HEADERS)).get("newest-versions", ())
    version = max([_OLDEST_VERSION, *(text for text in versions if isinstance(text, str))])
    found = _object(server.text(f"/metadata/instance?api-version={version}", _HEADERS))
    compute = found.get("compute", {})
    if not isinstance(compute, dict):
        compute = {}
    names = {name: _text(compute, name) for name in ("name", "location", "vmId")}
    metadata = {f"azure_{name}": value for name, value in names.items() if value} | _tags(compute)
    place = {"region": names["location"], "zone": _text(compute, "zone")}
    return Platform(name="Azure", metadata=metadata, locality=place)


def _tags(compute: Json) -> dict[str, str]:
    """Return the tags: of the list, else of the older `name:value;…` text."""
    listed = compute.get("tagsList")
    if isinstance(listed, list):
        entries = [entry for entry in listed if isinstance(entry, dict)]
        return {f"azure_{_text(entry, 'name')}": _text(entry, "value") for entry in entries}
    pairs = (pair.partition(":") for pair in _text(compute, "tags").split(";") if pair)
    return {f"azure_{name}": value for name, _, value in pairs}


def _text(members: Json, name: str) -> str:
    value = members.get(name, "")
    return value if isinstance(value, str) else ""


def _object(text: str) -> Json:
    try:
        found: Json = msgspec.json.decode(text, type=dict[str, Any])
    except UNREADABLE:
        return {}
    return found
