"""Amazon EC2."""

from pathlib import Path
from typing import Final

from pilot_agent.bootstrap.platform.metadata_server import MetadataServer
from pilot_agent.bootstrap.platform.model import Platform

_MEMBERS: Final = {
    "aws_region": "placement/region",
    "aws_availability_zone": "placement/availability-zone",
    "aws_instance_id": "instance-id",
}


def looks_like_aws(system: Path) -> bool:
    """Return whether the machine's identification (below `/sys`) is that of EC2."""
    ids = (_read(system / "hypervisor/uuid"), _read(system / "class/dmi/id/product_uuid"))
    version = _read(system / "class/dmi/id/product_version")
    return any(text.lower().startswith("ec2") for text in ids) or "amazon" in version


def aws(server: MetadataServer) -> Platform:
    """Return what the instance's metadata service says; members that it does not know are missing."""
    token = server.text("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    headers = {"X-aws-ec2-metadata-token": token} if token else {}
    asked = {name: server.text(f"/latest/meta-data/{path}", headers) for name, path in _MEMBERS.items()}
    found = {name: value for name, value in asked.items() if value}
    place = {"region": found.get("aws_region", ""), "zone": found.get("aws_availability_zone", "")}
    return Platform(name="AWS", metadata=found, locality=place)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
