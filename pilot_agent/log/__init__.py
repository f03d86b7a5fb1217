"""Log lines in the reference's form, from every process, whole lines only (spec: cli, log lines).

    log = get_logger("xdsproxy")
    log.info("connected to upstream XDS server", id=3)

A scope's level may be changed by `configure` alone, before any process is forked.
"""

from pilot_agent.log.scopes import (
    LEVELS,
    SCOPES,
    LogConfigurationError,
    Logger,
    configure,
    get_logger,
    recent_lines,
    sink_descriptors,
)

__all__ = [
    "LEVELS",
    "SCOPES",
    "LogConfigurationError",
    "Logger",
    "configure",
    "get_logger",
    "recent_lines",
    "sink_descriptors",
]
