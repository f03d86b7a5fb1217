"""What the agent's variables and ProxyConfig say about Envoy's life, its configuration excepted."""

import math
import os
from pathlib import PurePosixPath
from typing import Final, Literal, Self

import msgspec

from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.redacted import without

RotationPolicy = Literal["hot-restart", "sds"]
RestartPolicy = Literal["on-failure", "never"]

_FIPS_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
)
DENIED_PREFIXES: Final = ("CA_HEADER_", "XDS_HEADER_", "PYTHON")
"""Headers for istiod and the CA, which may be credentials; and what steers an interpreter."""

DENIED_NAMES: Final = frozenset(
    (
        *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
        *("ENVOY_ENV_FILTER", "VIRTUAL_ENV"),
    )
)
"""What systemd says to the process that it started, and to no child of it."""

_PROXY_UID: Final = 1337  # the user whose traffic the capture rules let pass
_LARGEST_STATUS: Final = 255
_ENDING_MARGIN_S: Final = 10.0  # drain call, SIGTERM, SIGKILL and their ends


class EnvoyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy's life as configured. Durations in seconds."""

    enabled: bool = True  # DISABLE_ENVOY
    binary_path: str = "/usr/local/bin/envoy"
    config_path: str = "etc/istio/proxy"  # cleaned, relative to the working directory
    custom_config_file: str = ""
    rotation_policy: RotationPolicy = "hot-restart"  # CERT_ROTATION_POLICY
    rotation_policy_is_asked: bool = False  # the variable is set
    restart_policy: RestartPolicy = "on-failure"  # ENVOY_RESTART_POLICY
    crash_loop_status: int = 0  # ENVOY_CRASH_LOOP_EXIT_CODE; 0: the agent goes on trying
    drain_time_s: int = 45
    parent_shutdown_s: int = 60  # from drain's begin to the old epoch's end
    termination_drain_s: float = 5.0
    minimum_drain_s: float = 5.0  # MINIMUM_DRAIN_DURATION
    exit_on_zero_active_connections: bool = False  # EXIT_ON_ZERO_ACTIVE_CONNECTIONS
    admin_port: int = 15000
    inbound_only: bool = True  # a sidecar drains its inbound listeners alone
    ipv6: bool = False  # no address of the node is IPv4
    own_ports: tuple[int, ...] = (15021, 15090)  # listeners that serve no application
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    uid: int = -1  # -1: the agent's own
    gid: int = -1

    __repr__ = without("environment")

    @classmethod
    def build(
        cls, environment: Environment, proxy_config: ProxyConfig, node: Node, *, agent_uid: int | None = None
    ) -> Self:
        """Read the variables that concern Envoy's process; `agent_uid` is the agent's own uid unless given.

        Source: the reference's envoy process and drain settings; the two policies are ours.
        """
        uid = _envoy_uid(environment, os.getuid() if agent_uid is None else agent_uid)
        drain_time_s = int(proxy_config.drain_duration_s)
        return cls(
            enabled=not environment.boolean("DISABLE_ENVOY", False),
            binary_path=proxy_config.binary_path,
            config_path=str(PurePosixPath(proxy_config.config_path)),
            custom_config_file=proxy_config.custom_config_file,
            rotation_policy=_rotation_policy(environment),
            rotation_policy_is_asked=bool(environment.string("CERT_ROTATION_POLICY")),
            restart_policy=_restart_policy(environment),
            crash_loop_status=_crash_loop_status(environment),
            drain_time_s=drain_time_s,
            parent_shutdown_s=max(math.ceil(proxy_config.parent_shutdown_duration_s), drain_time_s + 5),
            termination_drain_s=proxy_config.termination_drain_duration_s,
            minimum_drain_s=environment.seconds("MINIMUM_DRAIN_DURATION", 5.0),
            exit_on_zero_active_connections=environment.boolean("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", False),
            admin_port=proxy_config.proxy_admin_port,
            inbound_only=node.role == "sidecar",
            ipv6=not any("." in address for address in node.ip_addresses),
            own_ports=_own_ports(environment),
            environment=_process_environment(environment),
            uid=uid,
            gid=uid,
        )

    def wants_hot_restart(self, *, custom_bootstrap: bool) -> bool:
        """Whether hot restart is wanted; whether the machine allows it is another question.

        A custom bootstrap or template cannot be trusted to name its generation to the agent's xDS server:
        there it must be asked for.
        """
        return self.rotation_policy == "hot-restart" and (
            self.rotation_policy_is_asked or not custom_bootstrap
        )

    @property
    def admin_host(self) -> str:
        """Return the address of the admin listener."""
        return "::1" if self.ipv6 else "127.0.0.1"

    @property
    def longest_ending_s(self) -> float:
        """Return what the planned end of Envoy may take; infinite while connections are waited for.

        Then only the pod's grace period limits it, as in the reference.
        """
        if self.exit_on_zero_active_connections:
            return math.inf
        return self.termination_drain_s + _ENDING_MARGIN_S


def _rotation_policy(environment: Environment) -> RotationPolicy:
    return "sds" if _one_of(environment, "CERT_ROTATION_POLICY", ("hot-restart", "sds")) else "hot-restart"


def _restart_policy(environment: Environment) -> RestartPolicy:
    return "never" if _one_of(environment, "ENVOY_RESTART_POLICY", ("on-failure", "never")) else "on-failure"


def _crash_loop_status(environment: Environment) -> int:
    status = environment.integer("ENVOY_CRASH_LOOP_EXIT_CODE", 0)
    if 0 <= status <= _LARGEST_STATUS:
        return status
    environment.warnings.append(
        f"Invalid environment variable value `{status}` for ENVOY_CRASH_LOOP_EXIT_CODE, using default 0: "
        f"must be 0 to {_LARGEST_STATUS}"
    )
    return 0


def _one_of(environment: Environment, name: str, words: tuple[str, str]) -> bool:
    """Return whether the variable has the second of the two words; another text warns and means the first."""
    value = environment.string(name) or words[0]
    if value not in words:
        environment.warnings.append(
            f"Invalid environment variable value `{value}` for {name}, using default {words[0]}: "
            f"must be {' or '.join(words)}"
        )
    return value == words[1]


def _own_ports(environment: Environment) -> tuple[int, ...]:
    ports = (
        environment.integer("ENVOY_STATUS_PORT", 15021),
        environment.integer("ENVOY_PROMETHEUS_PORT", 15090),
        environment.integer("ENVOY_SECURE_METRICS_PORT", 0),
        environment.integer("ENVOY_SECURE_MERGED_METRICS_PORT", 0),
    )
    return tuple(port for port in ports if port)


def _process_environment(environment: Environment) -> dict[str, str]:
    """Return what Envoy gets: the agent's variables but for those that are the agent's alone.

    Under a FIPS policy the ciphers of Envoy's gRPC clients are added.
    """
    passed = environment.as_dict()
    if _one_of(environment, "ENVOY_ENV_FILTER", ("on", "off")):
        return passed | _fips(environment)
    kept = {name: value for name, value in passed.items() if not is_denied(name)}
    return kept | _fips(environment)


def is_denied(name: str) -> bool:
    """Return whether a variable is kept from Envoy, which shows its environment to its extensions."""
    return name in DENIED_NAMES or name.startswith(DENIED_PREFIXES)


def _fips(environment: Environment) -> dict[str, str]:
    policy = environment.string("COMPLIANCE_POLICY")
    return {"GRPC_SSL_CIPHER_SUITES": _FIPS_CIPHERS} if policy in ("fips-140-2", "fips-140-3") else {}


def _envoy_uid(environment: Environment, agent_uid: int) -> int:
    """Return 1337 where a root agent serves DNS on port 53: its own queries must pass the capture rules."""
    address = environment.string("DNS_PROXY_ADDR", "localhost:15053")
    return _PROXY_UID if agent_uid == 0 and address.endswith(":53") else -1
