"""TLS contexts whose certificates come over SDS.

Source: the reference's bootstrap, section "static_resources.clusters", tables of `tlsSettings.mode`.
"""

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]  # Any: JSON values

_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


def upstream_tls(
    settings: Mapping[str, Any], metadata: Mapping[str, Any], *, alpn: bool, default_sni: str
) -> Json:
    """Return the `transport_socket` member for a service's `tlsSettings`, or nothing.

    Args:
        settings: ClientTLSSettings in canonical JSON; empty or mode DISABLE gives nothing.
        metadata: The node's; its TLS_CLIENT_* paths beat those of the settings.
        alpn: Whether the service speaks gRPC, whose protocols are then named.
        default_sni: Of mode ISTIO_MUTUAL, where the settings name none.
    """
    mode = settings.get("mode", "DISABLE")
    if mode not in ("SIMPLE", "MUTUAL", "ISTIO_MUTUAL"):
        return {}
    mesh = mode == "ISTIO_MUTUAL"
    common = _validation(_root_secret(mode, settings, metadata), settings, wait_for_ever=mesh)
    if certificate := _certificate_secret(mode, settings, metadata):
        common["tls_certificate_sds_secret_configs"] = [_secret(certificate, wait_for_ever=mesh)]
    if alpn:
        common["alpn_protocols"] = ["istio", "h2"] if mesh else ["h2"]
    context: Json = {"@type": f"{_TYPE}UpstreamTlsContext", "common_tls_context": common}
    if sni := settings.get("sni") or (default_sni if mesh else ""):
        context["sni"] = sni
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def _validation(root: str, settings: Mapping[str, Any], *, wait_for_ever: bool) -> Json:
    """Return how the server is verified: by the SDS secret `root`, else by the system's roots.

    Without a root the reference leaves the secret out of a message that must have one, and Envoy refuses
    to start.
    """
    names = [{"exact": name} for name in settings.get("subjectAltNames", ())]
    match: Json = {"match_subject_alt_names": names} if names else {}
    if not root:
        return {"validation_context": {"system_root_certs": {}} | match}
    return {
        "combined_validation_context": {
            "default_validation_context": match,
            "validation_context_sds_secret_config": _secret(root, wait_for_ever=wait_for_ever),
        }
    }


def mesh_server_tls() -> Json:
    """Return the transport socket of a listener that wants the mesh's own client certificates."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [_secret("default")],
                "combined_validation_context": {
                    "default_validation_context": {},
                    "validation_context_sds_secret_config": _secret("ROOTCA"),
                },
            },
        },
    }


def _root_secret(mode: str, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    if mode == "ISTIO_MUTUAL":
        return "ROOTCA"
    path = metadata.get("TLS_CLIENT_ROOT_CERT") or settings.get("caCertificates", "")
    return f"file-root:{path}" if path else ""


def _certificate_secret(mode: str, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    if mode == "ISTIO_MUTUAL":
        return "default"
    chain = metadata.get("TLS_CLIENT_CERT_CHAIN") or settings.get("clientCertificate", "")
    key = metadata.get("TLS_CLIENT_KEY") or settings.get("privateKey", "")
    return f"file-cert:{chain}~{key}" if mode == "MUTUAL" and chain and key else ""


def _secret(name: str, *, wait_for_ever: bool = False) -> Json:
    source: Json = {
        "api_config_source": {
            "api_type": "GRPC",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
            "set_node_on_first_message_only": True,
            "transport_api_version": "V3",
        },
        "resource_api_version": "V3",
    }
    if wait_for_ever:
        source["initial_fetch_timeout"] = "0s"
    return {"name": name, "sds_config": source}
