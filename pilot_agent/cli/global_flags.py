"""The logging flags, which every command accepts and `proxy` applies."""

from __future__ import annotations

from pilot_agent.cli.errors import CliError
from pilot_agent.cli.flags import Flag, Values
from pilot_agent.gotext import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_SCOPE_LIST: Final = (
    "ads, all, ca, cache, citadelclient, default, dns, gcecred, grpc, healthcheck, klog, mockcred, "
    "monitoring, probes, sds, security, spiffe, validation, wasm, xdsproxy"
)
_LEVEL_LIST: Final = "debug, info, warn, error, fatal, none"

GLOBAL_FLAGS: Final = (
    Flag("log_as_json", "bool", False, "Write each log line as one JSON object"),
    Flag(
        "log_caller",
        "string",
        "",
        f"Comma-separated scopes whose lines name their source file and line; scopes: [{_SCOPE_LIST}]",
    ),
    Flag(
        "log_output_level",
        "string",
        "",
        "Comma-separated SCOPE:LEVEL pairs (a LEVEL alone is for default) from which level on each scope "
        f"writes; scopes: [{_SCOPE_LIST}], levels: [{_LEVEL_LIST}]",
    ),
    Flag(
        "log_stacktrace_level",
        "string",
        "default:none",
        "Comma-separated SCOPE:LEVEL pairs from which level on a stack trace follows the line; "
        f"scopes: [{_SCOPE_LIST}], levels: [{_LEVEL_LIST}]",
    ),
    Flag(
        "log_target",
        "stringArray",
        ("stdout",),
        "Where log lines go: stdout, stderr or a file's path; may be repeated",
    ),
    Flag(
        "vklog",
        "int",
        0,
        "Verbosity of the Kubernetes client's log; other than 0 switches scope klog to debug",
    ),
)


def configure_logging(values: Values) -> None:
    """Apply the logging flags.

    Raises:
        CliError: a level does not parse, or a target cannot be opened; nothing is applied then.
    """
    from pilot_agent import log  # noqa: PLC0415  # `version` and `request` get along without it

    output_level = values.string("log_output_level")
    if values.integer("vklog"):
        output_level = ",".join(filter(None, (output_level, "klog:debug")))
    try:
        log.configure(
            targets=values.strings("log_target"),
            as_json=values.boolean("log_as_json"),
            output_level=output_level,
            stacktrace_level=values.string("log_stacktrace_level"),
            callers=values.string("log_caller"),
        )
    except log.LogConfigurationError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"couldn't open log target {quote(str(error.filename))}: {error.strerror}") from error
