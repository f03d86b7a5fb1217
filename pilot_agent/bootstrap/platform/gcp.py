"""Google Cloud."""

from pathlib import Path
from typing import Final

from pilot_agent.bootstrap.platform.metadata_server import MetadataServer
from pilot_agent.bootstrap.platform.model import Platform
from pilot_agent.environment import Environment

FLAVOR: Final = {"Metadata-Flavor": "Google"}

_STATIC: Final = ("gcp_project", "gcp_project_number", "gcp_gke_cluster_name", "gcp_location")
_ASKED: Final = {
    "gcp_project": "project/project-id",
    "gcp_project_number": "project/numeric-project-id",
    "gcp_gke_cluster_name": "instance/attributes/cluster-name",
    "gcp_location": "instance/attributes/cluster-location",
    "gcp_gce_instance": "instance/name",
    "gcp_gce_instance_id": "instance/id",
    "gcp_gce_instance_template": "instance/attributes/instance-template",
    "gcp_gce_instance_created_by": "instance/attributes/created-by",
}


def static_metadata(environment: Environment) -> dict[str, str]:
    """Return the members of GCP_METADATA (`PROJECT|NUMBER|CLUSTER|LOCATION`) and what goes with them.

    Empty when the variable is: then the quota project and the zone do not count either.
    """
    text = environment.string("GCP_METADATA")
    if not text:
        return {}
    parts = text.split("|")
    found = dict(zip(_STATIC, parts, strict=True)) if len(parts) == len(_STATIC) else {}
    for name, variable in (("gcp_quota_project", "GCP_QUOTA_PROJECT"), ("gcp_zone", "GCP_ZONE")):
        if value := environment.string(variable):
            found[name] = value
    return found | _cluster_url(found)


def is_gce(server: MetadataServer) -> bool:
    """Return whether the server that answers is Google's."""
    try:
        return server.ask("/", FLAVOR).headers.get("metadata-flavor") == "Google"
    except (OSError, ValueError):
        return False


def looks_like_gce(system: Path) -> bool:
    """Return whether the machine's identification (below `/sys`) is that of Google."""
    try:
        name = (system / "class/dmi/id/product_name").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return name.strip() in ("Google", "Google Compute Engine")


def gcp(environment: Environment, server: MetadataServer, resolv_conf: Path) -> Platform:
    """Return the static metadata where there are any, else what the metadata server says."""
    metadata = static_metadata(environment) or _asked(server)
    zone = environment.string("GCP_ZONE") or _zone_of_search_list(resolv_conf)
    if not zone and not environment.string("GCP_METADATA"):  # static metadata keep the server out
        zone = server.text("/computeMetadata/v1/instance/zone", FLAVOR).rpartition("/")[2]
    region = zone.rpartition("-")[0]
    kubernetes = "KUBERNETES_SERVICE_HOST" in environment or bool(metadata.get("gcp_gke_cluster_name"))
    place = {"region": region, "zone": zone} if region else {}
    return Platform(name="GCP", metadata=metadata, locality=place, kubernetes=kubernetes)


def _asked(server: MetadataServer) -> dict[str, str]:
    answers = {name: server.text(f"/computeMetadata/v1/{path}", FLAVOR) for name, path in _ASKED.items()}
    if not answers["gcp_location"]:
        zone = server.text("/computeMetadata/v1/instance/zone", FLAVOR)
        answers["gcp_location"] = zone.rpartition("/")[2]
    found = {name: value for name, value in answers.items() if value}
    return found | _cluster_url(found)


def _cluster_url(found: dict[str, str]) -> dict[str, str]:
    if not all(name in found for name in ("gcp_project", "gcp_location", "gcp_gke_cluster_name")):
        return {}
    path = f"projects/{found['gcp_project']}/locations/{found['gcp_location']}"
    cluster = found["gcp_gke_cluster_name"]
    return {"gcp_gke_cluster_url": f"https://container.googleapis.com/v1/{path}/clusters/{cluster}"}


def _zone_of_search_list(resolv_conf: Path) -> str:
    """Return ZONE of an entry `ZONE.c.PROJECT.internal` in the resolver's search list, or nothing."""
    try:
        lines = resolv_conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    names = [name for line in lines if line.startswith("search") for name in line.split()[1:]]
    zones = (parts[0] for parts in (name.split(".") for name in names) if parts[1:2] == ["c"])
    return next((zone for zone in zones if "-" in zone), "")
