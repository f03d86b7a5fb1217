"""Puts the rules of iptables in place, whole or not at all, and removes them.

What is there is read first. A table that is as planned is left alone, so a second run changes nothing, and
a run that was killed between two families or tables is completed by the next. When anything fails, what was
changed is put back from the first reading.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pilot_agent.capture.backend import Backend, Look, can_write, check, choose
from pilot_agent.capture.changes import (
    guardrails_down,
    guardrails_up,
    replacement,
    revert,
)
from pilot_agent.capture.errors import CaptureError, ExecutionError
from pilot_agent.capture.options import CaptureOptions, CaptureSettings
from pilot_agent.capture.ours import marks
from pilot_agent.capture.programs import Command, Deferred, Programs
from pilot_agent.capture.routes import Routes, TproxyRoute, tproxy_route
from pilot_agent.capture.rules import Rule, chains_of, restore_input, tables_of
from pilot_agent.capture.saved import Saved, has_our_chains, our_chains, parse_saved
from pilot_agent.capture.suspects import suspects
from pilot_agent.capture.verdict import Verdict, compare, decided
from pilot_agent.log import get_logger

_ASKED_AT_ONCE: Final = 16
"""Rules that iptables is asked about, a process each: other flags may leave hundreds to be asked about."""

_log = get_logger()


def apply_iptables(options: CaptureOptions, rules: Sequence[Rule]) -> None:
    """Bring the machine to `rules`.

    Raises:
        CaptureError: it could not be done; then nothing was changed.
    """
    programs = Programs()
    if options.settings.cni_mode:
        from pilot_agent.capture.cni import isolate_name_lookups  # noqa: PLC0415  # needs ctypes

        isolate_name_lookups()
    with Deferred(programs) as deferred:
        backends = _apply(options, rules, programs, deferred)
    log_final_state(programs, backends)


def _apply(
    options: CaptureOptions, rules: Sequence[Rule], programs: Programs, deferred: Deferred
) -> list[Backend]:
    """Do it with the first backend that can; one that cannot write a rule at all is passed over."""
    forced, unusable = options.settings.force_iptables_binary, set[str]()
    route = tproxy_route(options)
    while True:
        looks = _usable(choose(programs, forced, unusable), options)
        backends = [one.backend for family, one in looks.items() if family in _families(options)]
        try:
            _attempt(options, rules, route, programs, looks)
        except CaptureError as error:
            broken = set[str]()
            if not (deferred.caught or forced):
                broken = {one.name for one in backends if not can_write(programs, one)}
            if broken <= unusable:
                log_final_state(programs, backends)
                raise type(error)(f"{error}{suspects(options)}") from error
            unusable |= broken
        else:
            return backends


def _attempt(
    options: CaptureOptions,
    rules: Sequence[Rule],
    route: TproxyRoute | None,
    programs: Programs,
    looks: dict[int, Look],
) -> None:
    change, routes = _Change(programs, options.settings, rules, looks), Routes()
    try:
        if options.settings.reconcile or options.settings.force_apply:
            old_marks = set[int]().union(*(marks(one.saved) for one in looks.values()))
            routes.remove_stale(old_marks, route, ipv6=options.ipv6)
        change.carry_out()
        for line in routes.configure(route, ipv6=options.ipv6):
            _log.info(line)
    except CaptureError:
        programs.finish()
        routes.undo()
        change.put_back()
        raise


def _families(options: CaptureOptions) -> tuple[int, ...]:
    return (4, 6) if options.ipv6 else (4,)


def _usable(looks: dict[int, Look], options: CaptureOptions) -> dict[int, Look]:
    for family, one in looks.items():
        if one.error and family in _families(options):
            raise ExecutionError(one.error)
        if one.error:
            _log.warn(f"IPv6 iptables cannot be used, and no rules are planned for it: {one.error}")
    usable = {family: one for family, one in looks.items() if not one.error}
    if options.settings.cni_mode:
        from pilot_agent.capture.cni import lock_for  # noqa: PLC0415  # needs ctypes

        lock_for(options.settings.network_namespace, [one.backend for one in usable.values()])
    return usable


def log_final_state(programs: Programs, backends: Sequence[Backend]) -> None:
    ended = programs.run_all([Command((backend.save,)) for backend in backends])
    for backend, completed in zip(backends, ended, strict=True):
        _log.info(f"Final iptables state (IPv{backend.family}):\n{completed.output.rstrip()}")


class _Family(NamedTuple):
    """One family: its iptables, what is there, what is planned, and how the two compare."""

    backend: Backend
    saved: Saved
    rules: list[Rule]
    verdict: Verdict

    @property
    def conflicts(self) -> list[str]:
        """Return the tables that hold chains of ours with other rules than planned."""
        return [
            table
            for table in sorted(self.verdict.different)
            if table not in tables_of(self.rules)
            or set(our_chains(self.saved.get(table, {}))) & set(chains_of(self.rules, table))
        ]


class _Change:
    """From what is there to what is planned, and back."""

    def __init__(
        self, programs: Programs, settings: CaptureSettings, rules: Sequence[Rule], looks: dict[int, Look]
    ) -> None:
        self._programs, self._settings = programs, settings
        self._families = [
            self._family(one, [rule for rule in rules if rule.family == family])
            for family, one in looks.items()
        ]
        self._touched: list[_Family] = []
        self._guarded: list[_Family] = []

    def carry_out(self) -> None:
        residue, delta = self._say_verdict()
        conflicts = [
            f"IPv{one.backend.family}: {', '.join(one.conflicts)}" for one in self._families if one.conflicts
        ]
        self._remove_lost_guardrails()
        if self._settings.force_apply and not delta:
            _log.warn("the rules are in place already; they are made again because of --force-apply")
        elif not delta:
            return
        elif residue and not self._settings.reconcile:
            _log.warn(
                "reconcile is recommended but no-reconcile flag is set. Unexpected behavior may occur due "
                "to preexisting iptables rules"
            )
            if conflicts and not self._settings.force_apply:
                raise ExecutionError(
                    f"chains of ours hold other rules than these ({'; '.join(conflicts)}); "
                    "--reconcile replaces them, --cleanup-only removes them"
                )
        if residue and delta and self._settings.reconcile:
            self._reconcile()
        else:
            self._apply()

    def put_back(self) -> None:
        """Make every family that was touched as it was; what fails now can only be told."""
        for one in reversed(self._touched):
            after = self._read(one.backend)
            text = revert(one.saved, after)
            if not text:
                continue
            completed = self._programs.run(one.backend.restore(text))
            if completed.status != 0:
                _log.error(f"cannot put back the rules of IPv{one.backend.family}: {completed.error.strip()}")

    def _family(self, one: Look, rules: list[Rule]) -> _Family:
        verdict = compare(rules, one.saved)
        if one.backend.compares_loosely:
            return _Family(one.backend, one.saved, rules, decided(verdict, verdict.unsure))
        return _Family(one.backend, one.saved, rules, decided(verdict, self._missing(one.backend, verdict)))

    def _missing(self, backend: Backend, verdict: Verdict) -> list[Rule]:
        """Return rules that iptables does not find; of a table that lacks some, it need not be all."""
        missing: list[Rule] = []
        unsure = list(verdict.unsure)
        while unsure:
            asked, unsure = unsure[:_ASKED_AT_ONCE], unsure[_ASKED_AT_ONCE:]
            completed = self._programs.run_all([backend.command(rule.command("C")) for rule in asked])
            missing += [rule for rule, one in zip(asked, completed, strict=True) if one.status != 0]
            lacking = {rule.table for rule in missing}
            unsure = [rule for rule in unsure if rule.table not in lacking]
        return missing

    def _say_verdict(self) -> tuple[bool, bool]:
        planned = [one for one in self._families if one.rules]
        residue = any(one.verdict.residue for one in planned)
        delta = any(one.verdict.different for one in planned)
        for one in self._families:
            if one.verdict.residue and not one.rules:
                _log.info(f"Ignoring residues because no rules are planned for IPv{one.backend.family}")
        if not residue:
            _log.info("Clean-state detected, new iptables are needed")
        elif not delta:
            _log.info("Found compatible residues of old iptables rules/chains, reconciliation not needed")
        else:
            _log.info("Found residues of old iptables rules/chains, reconciliation is recommended")
        return residue, delta

    def _apply(self) -> None:
        _log.info("Applying iptables chains and rules")
        for one in self._families:
            tables = set(tables_of(one.rules))
            if self._settings.force_apply:
                text = (
                    replacement(one.saved, one.rules, tables, by_place=one.backend.compares_loosely)
                    if one.conflicts or not one.verdict.different
                    else ""
                )
                text = text or restore_input(one.rules)
            else:
                text = restore_input(rule for rule in one.rules if rule.table in one.verdict.different)
            self._restore(one, text)

    def _reconcile(self) -> None:
        """Exchange the rules behind guardrails: between two tables no packet may leave uncaptured."""
        try:
            _log.info("Setting up guardrails")
            for one in self._families:
                if one.verdict.different:
                    self._guarded.append(one)
                    self._restore(one, guardrails_up(), say=False)
            _log.info("Performing cleanup of existing iptables")
            _log.info("Applying iptables chains and rules")
            for one in self._families:
                text = replacement(
                    one.saved, one.rules, one.verdict.different, by_place=one.backend.compares_loosely
                )
                self._restore(one, text)
        finally:
            self._remove_guardrails()

    def _restore(self, one: _Family, text: str, *, say: bool = True) -> None:
        if not text:
            return
        if say:
            _log.info(
                f"Running iptables restore with: {one.backend.name}-restore and the following input:\n"
                f"{text.rstrip()}"
            )
        self._touched = [other for other in self._touched if other is not one] + [one]
        check(self._programs.run(one.backend.restore(text)), f"{one.backend.name}-restore")

    def _remove_guardrails(self) -> None:
        if self._guarded:
            _log.info("Removing guardrails")
        for one in self._guarded:
            down = one.backend.restore(guardrails_down(self._read(one.backend)))
            check(self._programs.run(down), f"{one.backend.name}-restore")  # else all is put back
        self._guarded = []

    def _remove_lost_guardrails(self) -> None:
        """Remove those of a run that was killed: they let nothing through any more."""
        if not any(has_our_chains(one.saved) for one in self._families):
            return
        for number, one in enumerate(self._families):
            if down := guardrails_down(one.saved):
                _log.warn(f"Removing guardrails that an earlier run has left in IPv{one.backend.family}")
                check(self._programs.run(one.backend.restore(down)), f"{one.backend.name}-restore")
                self._families[number] = one._replace(saved=self._read(one.backend))

    def _read(self, backend: Backend) -> Saved:
        return parse_saved(check(self._programs.run(Command((backend.save,))), backend.save))
