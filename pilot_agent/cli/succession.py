"""The start of a version that follows a running one: as a probe beside it, or in its place."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pilot_agent.cli.errors import CliError

if TYPE_CHECKING:
    from actors.runtime.handover import Handover

_PROBE = "PILOT_AGENT_UPGRADE_PROBE"
_HANDOVER = "PILOT_AGENT_HANDOVER"
"""As actors.runtime.upgrade and .handover have them, which an ordinary start does not load."""

_EXTERNAL_SDS = "PILOT_AGENT_UPGRADE_EXTERNAL_SDS"
"""Of a start that follows another: whether somebody else serves Envoy's SDS socket."""


class Succession(NamedTuple):
    """What the version before left, or copies of its notebooks to look at."""

    handover: "Handover | None" = None
    notebooks: tuple[tuple[str, int], ...] = ()
    external_sds: bool = False  # whether somebody else serves Envoy's SDS socket

    @property
    def is_probe(self) -> bool:
        """Return whether this process ends before it would touch anything."""
        return self.handover is None

    @contextmanager
    def or_the_version_before(self) -> Iterator[None]:
        """Become the version before again, if this one cannot start; a probe just ends with its error."""
        try:
            yield
        except Exception as error:
            if self.handover is None or self.handover.back is None:
                raise
            from actors.runtime.handover import go_back  # noqa: PLC0415

            go_back(self.handover, str(error))

    def look_at_notebooks(self) -> None:
        """Read the newest slot of each; one that this version cannot read is begun anew, and that is said."""
        from actors.runtime import process  # noqa: PLC0415
        from actors.runtime.notebook import FileNotebook  # noqa: PLC0415
        from pilot_agent.log import get_logger  # noqa: PLC0415

        process.keep_secrets()
        for role, descriptor in self.notebooks:
            held = FileNotebook(descriptor).holds()
            get_logger().info(f"notebook of {role}: {held or 'empty, or of another format: it begins anew'}")


def for_the_next(variables: Mapping[str, str], *, external_sds: bool) -> dict[str, str]:
    """Return the variables of a version that follows this one: with what it could not find out any more."""
    return {**variables, _EXTERNAL_SDS: str(external_sds).lower()}


def begin(variables: MutableMapping[str, str]) -> Succession | None:
    """Return what this start follows; None for an ordinary one, which is told by one look at the variables.

    Raises:
        CliError: what was left cannot be read.
    """
    if _HANDOVER not in variables and _PROBE not in variables:
        return None
    from actors.runtime import handover  # noqa: PLC0415

    text, external_sds = variables.pop(_PROBE, ""), variables.pop(_EXTERNAL_SDS, "") == "true"
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    notebooks = tuple((role, int(descriptor)) for role, _, descriptor in pairs)
    try:
        return Succession(handover.take(variables), notebooks, external_sds)
    except handover.HandoverError as error:
        raise CliError(str(error)) from error
