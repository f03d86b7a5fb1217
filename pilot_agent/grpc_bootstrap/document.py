"""The document itself. Pure.

Source: the reference's gRPC bootstrap, and gRPC's own description of the file.
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]  # Any: JSON values

LISTENER_TEMPLATE: Final = "xds.istio.io/grpc/lds/inbound/%s"
"""What a gRPC server asks for to learn how it is to listen; `%s` is its address."""

_REFRESH: Final = "900s"


def document(
    *,
    socket_path: str,
    node_id: str,
    metadata: Mapping[str, Any],
    locality: Mapping[str, str],
    certificates: str,
) -> Json:
    """Return the bootstrap.

    Args:
        socket_path: Of the agent's xDS server. A relative one becomes absolute from `/`, where the
            container's processes run; an absolute one gives four slashes, as with the reference.
        node_id: The service node.
        metadata: The node's, as Envoy has it.
        locality: Region, zone, sub-zone; empty where it is unknown.
        certificates: The directory of OUTPUT_CERTS; empty: there are none.
    """
    found: Json = {
        "xds_servers": [
            {
                "server_uri": f"unix:///{posixpath.normpath(socket_path)}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": node_id,
            "metadata": dict(sorted({**metadata, "GENERATOR": "grpc"}.items())),
            "locality": {name: text for name, text in locality.items() if text},
            "UserAgentVersionType": None,
        },
    }
    if certificates:
        found["certificate_providers"] = {
            "default": {"plugin_name": "file_watcher", "config": _files(certificates)}
        }
    return found | {"server_listener_resource_name_template": LISTENER_TEMPLATE}


def _files(directory: str) -> Json:
    def inside(name: str) -> str:
        return posixpath.normpath(posixpath.join(directory, name))

    return {
        "certificate_file": inside("cert-chain.pem"),
        "private_key_file": inside("key.pem"),
        "ca_certificate_file": inside("root-cert.pem"),
        "refresh_interval": _REFRESH,
    }
