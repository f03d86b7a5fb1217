"""Log lines in the reference's form, from every process, whole lines only (spec: cli, log lines).

    log = get_logger("xdsproxy")
    log.info("connected to upstream XDS server", id=3)

A scope's level may be changed by `configure` alone, before any process is forked.
"""

from pilot_agent.log.scopes import LogConfigurationError, configure, get_logger, sink_descriptors
from pilot_agent.log.scopes import Logger as Logger

__all__ = ["LogConfigurationError", "Logger", "configure", "get_logger", "sink_descriptors"]
