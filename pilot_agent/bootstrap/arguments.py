"""Envoy's command line.

Source: the reference's Envoy process, tables of arguments; the hot-restart set is that of the releases
which had hot restarts, less what today's Envoy refuses.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from pilot_agent.bootstrap.families import has_ipv4
from pilot_agent.bootstrap.options import BootstrapOptions
from pilot_agent.environment import duration_s
from pilot_agent.log import get_logger

_log = get_logger()

_FLUSH_DEFAULT_MS: Final = 1000


class HotRestart(msgspec.Struct, frozen=True, kw_only=True):
    """What makes an Envoy the next epoch of another one."""

    epoch: int
    base_id: int
    parent_shutdown_s: int  # from the start of this epoch to the end of its parent
    socket_path: str  # directory part and prefix of the sockets, private to this agent
    socket_mode: str = "600"


def envoy_arguments(
    options: BootstrapOptions, *, config_file: str, hot_restart: HotRestart | None = None
) -> list[str]:
    """Return the arguments after the program's name.

    Args:
        options: What holds for this agent.
        config_file: The rendered file, or `customConfigFile`.
        hot_restart: None: `--disable-hot-restart`, and all is as the reference has it.
    """
    config = options.proxy_config
    arguments = ["-c", config_file]
    if hot_restart is not None:
        arguments += ["--restart-epoch", str(hot_restart.epoch)]
    arguments += ["--drain-time-s", str(int(config.drain_duration_s)), "--drain-strategy", "immediate"]
    if hot_restart is not None:
        arguments += ["--parent-shutdown-time-s", str(hot_restart.parent_shutdown_s)]
    arguments += ["--local-address-ip-version", "v4" if has_ipv4(options.ip_addresses) else "v6"]
    arguments += ["--file-flush-interval-msec", str(_flush_ms(options))]
    arguments += _restart_arguments(hot_restart)
    arguments.append("--allow-unknown-static-fields")
    return arguments + _optional(options)


def log_levels(text: str) -> tuple[str, str]:
    """Return level and component levels of `--proxyLogLevel`: `info,misc:error` is (`info`, `misc:error`)."""
    level, components = "", []
    for part in text.split(","):
        colons = part.count(":")
        if colons == 0:
            level = part
        elif colons == 1:
            components.append(part)
        else:
            _log.warn(f"dropped component log level {part}: expected component:level")
    return level, ",".join(components)


def _restart_arguments(hot_restart: HotRestart | None) -> list[str]:
    if hot_restart is None:
        return ["--disable-hot-restart"]
    return [
        *("--base-id", str(hot_restart.base_id)),
        *("--socket-path", hot_restart.socket_path),
        *("--socket-mode", hot_restart.socket_mode),
    ]


def _optional(options: BootstrapOptions) -> list[str]:
    level, components = log_levels(options.flags.proxy_log_level)
    size_kb, workers = (
        options.proxy_config.document.get("fileFlushMinSizeKb", 0),
        options.proxy_config.concurrency,
    )
    return [
        *_pair("--file-flush-min-size-kb", str(size_kb or "")),
        *_pair("-l", level),
        *_pair("--component-log-level", components or options.flags.proxy_component_log_level),
        *(["--skip-deprecated-logs"] if options.agent.skip_deprecated_logs else []),
        *(["--enable-core-dump"] if options.core_dump else []),
        *_pair("--config-yaml", options.override or ""),
        *_pair("--concurrency", str(workers) if workers and workers > 0 else ""),
    ]


def _pair(name: str, value: str) -> Iterable[str]:
    return (name, value) if value else ()


def _flush_ms(options: BootstrapOptions) -> int:
    text = options.proxy_config.document.get("fileFlushInterval")
    return round(duration_s(text) * 1e9) // 10**6 if text else _FLUSH_DEFAULT_MS
