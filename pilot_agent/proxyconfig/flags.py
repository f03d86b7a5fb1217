"""The flags of `pilot-agent proxy` that reach further than the command line."""

import msgspec


class ProxyFlags(msgspec.Struct, frozen=True, kw_only=True):
    """Values after parsing; the defaults are those of the reference."""

    role: str = "sidecar"
    domain: str = ""  # empty: POD_NAMESPACE.svc.cluster.local
    mesh_config: str = "./etc/istio/config/mesh"
    service_cluster: str = "istio-proxy"  # only where ProxyConfig has an empty one
    proxy_log_level: str = "warning"  # may carry component levels
    proxy_component_log_level: str = ""
    concurrency: int = 0  # 0: ProxyConfig decides
    template_file: str = ""
    outlier_log_path: str = ""
    sts_port: int = 0
    log_as_json: bool = False
    profiling: bool = True
