"""What the status page remembers: events and Envoy's generations. Pure; each step returns a new state."""

from typing import Final, Literal, Self

import msgspec

from pilot_agent.status.document import EnvoyRow, Event

_EVENTS: Final = 50
_ENVOYS: Final = 12
_TEXT_LIMIT: Final = 400

Level = Literal["info", "warn", "error"]
Kind = Literal["readiness", "envoy", "actor", "xds", "certificate", "workload", "operator"]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Kept in the notebook, so it is small and bounded."""

    events: tuple[Event, ...] = ()
    envoys: tuple[EnvoyRow, ...] = ()

    def with_event(self, at_unix_s: float, kind: Kind, text: str, level: Level = "info") -> Self:
        event = Event(at_unix_s=at_unix_s, kind=kind, level=level, text=text[:_TEXT_LIMIT])
        return msgspec.structs.replace(self, events=(*self.events, event)[-_EVENTS:])

    def started(self, generation: int, epoch: int, pid: int, at_unix_s: float) -> Self:
        """Note a new Envoy; one that is known already changes nothing."""
        if any(each.generation == generation for each in self.envoys):
            return self
        row = EnvoyRow(
            generation=generation, epoch=epoch, pid=pid, state="starting", started_unix_s=at_unix_s
        )
        text = f"Envoy generation {generation} (epoch {epoch}, pid {pid}) was started"
        return self._with_envoys((*self.envoys, row)).with_event(at_unix_s, "envoy", text)

    def went_live(self, generation: int, at_unix_s: float) -> Self:
        """Note that it is LIVE; an older one drains from now on."""
        if not any(each.generation == generation and not each.live_unix_s for each in self.envoys):
            return self
        rows = tuple(
            msgspec.structs.replace(
                each, state="live" if each.state == "starting" else each.state, live_unix_s=at_unix_s
            )
            if each.generation == generation
            else msgspec.structs.replace(each, state="draining")
            if each.generation < generation and each.state in ("live", "ready")
            else each
            for each in self.envoys
        )
        return self._with_envoys(rows).with_event(
            at_unix_s, "envoy", f"Envoy generation {generation} is LIVE"
        )

    def earned(self, generation: int, at_unix_s: float) -> Self:
        """Note the moment at which it earned readiness."""
        rows = tuple(
            msgspec.structs.replace(
                each, state="ready" if each.state != "draining" else "draining", ready_unix_s=at_unix_s
            )
            if each.generation == generation and not each.ready_unix_s and each.state != "ended"
            else each
            for each in self.envoys
        )
        return self if rows == self.envoys else self._with_envoys(rows)

    def exited(self, generation: int, status: str, at_unix_s: float) -> Self:
        """Note an end."""
        known = next((each for each in self.envoys if each.generation == generation), None)
        if known is None or known.state == "ended":
            return self
        rows = tuple(
            msgspec.structs.replace(each, state="ended", ended_unix_s=at_unix_s, end=status)
            if each is known
            else each
            for each in self.envoys
        )
        level: Level = "info" if known.state == "draining" or status == "exit status 0" else "error"
        text = f"Envoy generation {generation} has ended: {status}"
        return self._with_envoys(rows).with_event(at_unix_s, "envoy", text, level)

    def _with_envoys(self, rows: tuple[EnvoyRow, ...]) -> Self:
        alive = sum(1 for each in rows if each.state != "ended")
        ended_kept = max(_ENVOYS - alive, 0)
        ended = [each.generation for each in rows if each.state == "ended"]
        dropped = set(ended[: max(len(ended) - ended_kept, 0)])
        return msgspec.structs.replace(
            self, envoys=tuple(each for each in rows if each.generation not in dropped)
        )
