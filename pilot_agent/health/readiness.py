"""Reads Envoy's stats and decides whether it is ready; None is yes, a text says why not.

The texts stand in the log and are what istiod is told, so they are the reference's word for word.
Source: the reference's readiness probe.
"""

from typing import Final

CONFIG_FILTER: Final = r"^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$"
LIVE_FILTER: Final = r"^(server\.state|listener_manager\.workers_started)"
LIVE_STATS: Final = ("server.state", "listener_manager.workers_started")
EPOCH_FILTER: Final = r"|^server\.hot_restart_epoch$"
"""Added to either where two Envoys may stand behind one admin port."""

_STATES: Final = {0: "LIVE", 1: "DRAINING", 2: "PRE_INITIALIZING", 3: "INITIALIZING"}
_UINT64_END: Final = 1 << 64
_DIGITS: Final = 1000  # Python refuses to read thousands


class StatsError(ValueError):
    """A line of the answer is no `name: value`."""


def stat(answer: str, name: str) -> int | None:
    """Return the value of the first line that begins with `name`; None when there is none.

    Raises:
        StatsError: that line has not exactly one colon, or no unsigned 64-bit value.
    """
    line = next((line for line in answer.split("\n") if line.startswith(name)), None)
    if line is None:
        return None
    parts = line.split(":")
    if len(parts) != 2:
        raise StatsError(f"envoy stat {name} missing separator. line:{line}")
    text = parts[1].strip()
    if not (text.isascii() and text.isdigit() and int(text[:_DIGITS]) < _UINT64_END):
        reason = f'strconv.ParseUint: parsing "{text}": invalid syntax'
        raise StatsError(f"failed parsing Envoy stat {name} (error: {reason}) line: {line}")
    return int(text)


def config_refusal(answer: str) -> str | None:
    """Return why Envoy has not both CDS and LDS accepted yet; None when it has.

    Raises:
        StatsError: the answer cannot be read.
    """
    cds, cds_rejected, lds, lds_rejected = (
        stat(answer, f"{resource}.{counter}") or 0
        for resource in ("cluster_manager.cds", "listener_manager.lds")
        for counter in ("update_success", "update_rejected")
    )
    if cds and lds:
        return None
    counts = (
        f"cds updates: {cds} successful, {cds_rejected} rejected; "
        f"lds updates: {lds} successful, {lds_rejected} rejected"
    )
    if not cds and not lds:
        return f"config not received from XDS server (is Istiod running?): {counts}"
    if cds_rejected or lds_rejected:
        return f"config received from XDS server, but was rejected: {counts}"
    return f"config not fully received from XDS server: {counts}"


def live_refusal(answer: str) -> str | None:
    """Return why Envoy does not serve yet; None when it is LIVE and its workers run."""
    try:
        state, workers = (stat(answer, name) for name in LIVE_STATS)
    except StatsError as error:
        return f"failed to get readiness stats: {error}"
    for name, value in zip(LIVE_STATS, (state, workers), strict=True):
        if value is None:
            return f"failed to get readiness stats: {name} is not yet updated: {answer}"
    if state:
        return f"server is not live, current state is: {_STATES.get(state, 'UNKNOWN')}"
    return None if workers == 1 else "workers have not yet started"


def epoch_refusal(answer: str, epoch: int) -> str | None:
    """Return why the answer is not this epoch's; None when it is, or when Envoy does not say.

    During a hot restart the admin port is the parent's until the child takes it over, and what the
    parent answers must not make the child ready.
    """
    answering = stat(answer, "server.hot_restart_epoch")
    if answering is None or answering == epoch:
        return None
    return f"epoch {epoch} does not answer yet: the admin port is still that of epoch {answering}"
