"""Removes everything of ours from this network namespace, whatever flags and whichever release made it.

Both backends of iptables, both families, the tables of nftables, TPROXY's routes and the address. What is
not ours, and what is not there, is left alone.
"""

from collections.abc import Sequence
from typing import Final

from pilot_agent.capture.backend import NAMES, Look, legacy_is_used, look
from pilot_agent.capture.changes import guardrails_down, removal
from pilot_agent.capture.errors import CaptureError, ExecutionError
from pilot_agent.capture.nftables import delete_tables, marks_in, tables_there
from pilot_agent.capture.options import CaptureSettings
from pilot_agent.capture.ours import marks
from pilot_agent.capture.programs import Programs
from pilot_agent.capture.routes import remove_routes
from pilot_agent.capture.rules import Rule
from pilot_agent.log import get_logger

_DEFAULT_MARK: Final = 1337

_log = get_logger()


def clean(programs: Programs, settings: CaptureSettings, rules: Sequence[Rule] = ()) -> list[Look]:
    """Remove everything of ours, and return the backends that were looked at.

    `rules` are those of the current configuration: theirs are removed even where nothing else tells that
    they are ours. A deletion that fails is told and does not count.

    Raises:
        ExecutionError: neither iptables nor nft can be used.
    """
    _log.info("Performing cleanup of existing iptables")
    looks, tables, trouble = _look_around(programs)
    _remove_guardrails(programs, looks)
    found = {_DEFAULT_MARK} | _configured_mark(settings)
    for one in looks:
        found |= marks(one.saved)
        family = [rule for rule in rules if rule.family == one.backend.family]
        _remove(programs, one, family)
    found |= _clean_nftables(programs, tables)
    try:
        remove_routes(found)
    except OSError as error:
        _log.warn(f"cannot look for routes of ours: {error.strerror}")
    if not looks and trouble:
        raise ExecutionError(trouble)
    return looks


def _look_around(programs: Programs) -> tuple[list[Look], list[str], str]:
    """Return the backends that can be used, our tables of nftables, and why iptables cannot be used."""
    keys = [(family, "-legacy") for family in NAMES if legacy_is_used(family)]
    looks = look(programs, [*keys, *((family, "-nft") for family in NAMES)])
    missing = [
        (family, "") for family in NAMES if all(one.error for key, one in looks.items() if key[0] == family)
    ]
    looks |= look(programs, missing)
    try:
        tables = tables_there(programs)
    except ExecutionError:
        tables = []  # without nft there is no native table
    usable = [one for one in looks.values() if not one.error]
    plain = looks.get((4, ""))
    return usable, tables, plain.error if plain is not None else ""


def _remove_guardrails(programs: Programs, looks: Sequence[Look]) -> None:
    """Remove those of a run that was killed, before the chains go that tell whose they are."""
    if not any(one.has_our_chains for one in looks):
        return
    for one in looks:
        if down := guardrails_down(one.saved):
            _log.warn(f"Removing guardrails that an earlier run has left in {one.backend.name}")
            programs.run(one.backend.restore(down))


def _remove(programs: Programs, one: Look, rules: Sequence[Rule]) -> None:
    text = removal(one.saved, rules, by_place=one.backend.compares_loosely)
    if not text:
        return
    _log.info(
        f"Running iptables restore with: {one.backend.name}-restore and the following input:\n{text.rstrip()}"
    )
    completed = programs.run(one.backend.restore(text))
    if completed.status == 0:
        return
    _log.warn(f"{one.backend.name}-restore refused, trying line by line: {completed.error.strip()}")
    table = ""
    for line in text.rstrip("\n").split("\n"):
        if line.startswith("* "):
            table = line[2:]
        elif line != "COMMIT":
            programs.run(one.backend.restore(f"*{table}\n{line}\nCOMMIT\n"))


def _clean_nftables(programs: Programs, tables: Sequence[str]) -> set[int]:
    found: set[int] = set()
    try:
        found = marks_in(programs, tables)
        if tables:
            delete_tables(programs)
    except CaptureError as error:
        _log.warn(f"cannot remove the tables of nftables: {error}")
    return found


def _configured_mark(settings: CaptureSettings) -> set[int]:
    try:
        return {int(settings.inbound_tproxy_mark)}
    except ValueError:
        return set()
