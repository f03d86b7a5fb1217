"""Puts the rules of nftables in place: one transaction, whole or not at all."""

from collections.abc import Iterable

from pilot_agent.capture.errors import CaptureError
from pilot_agent.capture.nftables import marks_in, run_transaction, tables_there
from pilot_agent.capture.nftables_rules import build_transaction, deletion
from pilot_agent.capture.options import CaptureOptions
from pilot_agent.capture.programs import Deferred, Programs
from pilot_agent.capture.routes import Routes, tproxy_route
from pilot_agent.capture.suspects import suspects
from pilot_agent.log import get_logger

_log = get_logger()


def apply_nftables(options: CaptureOptions) -> None:
    """Bring the machine to the rules of `options`; a dry run only shows them.

    Raises:
        CaptureError: it could not be done; then nothing was changed.
    """
    lines = deletion() if options.settings.cleanup_only else build_transaction(options)
    if options.settings.dry_run:
        _log.info("running nftables in dry-run mode: the transaction is shown, not carried out")
        _say(lines)
        _log.info("skipping configuring routes due to dry run mode")
        return
    route = tproxy_route(options)
    programs, routes = Programs(), Routes()
    there = tables_there(programs)
    old_marks = marks_in(programs, (table for table in there if table.endswith("-mangle")))
    lines += _stale(there, lines)
    with Deferred(programs):
        try:
            routes.remove_stale(old_marks, route, ipv6=options.ipv6)
            for line in routes.configure(route, ipv6=options.ipv6):
                _log.info(line)
            run_transaction(programs, lines)
        except CaptureError as error:
            programs.finish()
            routes.undo()
            raise type(error)(f"{error}{suspects(options)}") from error
    _say(lines)


def _stale(there: Iterable[str], lines: list[str]) -> list[str]:
    """Return what removes tables that an earlier configuration made and this one does not."""
    planned = {line.split()[-1] for line in lines if line.startswith("add table ")}
    return [f"delete table inet {table}" for table in there if table not in planned]


def _say(lines: list[str]) -> None:
    _log.info("nftables rules programmed:\n" + "\n".join(lines))
