"""`proxy [role]`: the agent itself. Only its flags are here; what it does is in `pilot_agent.cli.proxy`."""

from pilot_agent.cli.command import Command, Invocation
from pilot_agent.cli.flags import Flag

ROLES = ("sidecar", "router", "waypoint", "ztunnel", "agentgateway")


def _run(invocation: Invocation) -> int:
    from pilot_agent.cli.lean_imports import keep_imports_lean  # noqa: PLC0415

    keep_imports_lean()  # before pathlib and msgspec come with the next line
    from pilot_agent.cli.proxy import run  # noqa: PLC0415  # `help` lists this module too

    return run(invocation)


COMMAND = Command(
    use="proxy [role]",
    short="Run the agent beside Envoy",
    long=f"Runs the agent: configures and starts Envoy, and serves it until the end.\n"
    f"Roles: {', '.join(ROLES)}; sidecar unless another is named.",
    run=_run,
    drops_unknown_flags=True,
    argument_choices=ROLES,
    flags=(
        Flag("concurrency", "int", 0, "Worker threads of Envoy (deprecated: use ProxyConfig)"),
        Flag(
            "domain", "string", "", "DNS domain suffix of the node; empty: ${POD_NAMESPACE}.svc.cluster.local"
        ),
        Flag("meshConfig", "string", "./etc/istio/config/mesh", "File of the mesh's configuration"),
        Flag("outlierLogPath", "string", "", "Log file of Envoy's outlier detection"),
        Flag("profiling", "bool", True, "Serve profiles on the status port"),
        Flag(
            "proxyComponentLogLevel",
            "string",
            "",
            "Log levels of Envoy's components (deprecated: --proxyLogLevel takes them)",
        ),
        Flag(
            "proxyLogLevel",
            "string",
            "warning",
            "Log level of Envoy, also with components: info,upstream:debug",
        ),
        Flag(
            "serviceCluster",
            "string",
            "istio-proxy",
            "Service cluster where ProxyConfig has an empty one (deprecated)",
        ),
        Flag("stsPort", "int", 0, "Port of a token exchange server; kept in the node's metadata alone"),
        Flag("templateFile", "string", "", "Template of Envoy's bootstrap"),
        Flag("tokenManagerPlugin", "string", "", "Accepted, without effect"),
    ),
)
