"""CertActor's part for the identity that outlives its container."""

import msgspec

from pilot_agent.environment import go_duration
from pilot_agent.log import get_logger
from pilot_agent.security.kept_identity import IdentityFile, Kept, NotKeptError
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.workload import Identity

_log = get_logger("cache")


class Keeping:
    """Keeps what the CA gave; says once why it cannot."""

    def __init__(self, options: SecurityOptions) -> None:
        wanted = bool(options.kept_directory) and options.ca is not None
        self._file = IdentityFile(options.kept_directory) if wanted else None
        self._spiffe_id = options.key.spiffe_id
        self._said = False

    def load(self, fresh: Identity, now_s: float) -> Identity:
        """Return the identity of the container before this one, or `fresh`."""
        if self._file is None:
            return fresh
        try:
            kept = self._file.load(spiffe_id=self._spiffe_id, now_s=now_s)
        except NotKeptError as error:
            _log.info(f"no identity of an earlier container: {error}")
            return fresh
        _log.info(
            f"serving the identity that was kept in {self._file.path}",
            serial=kept.workload.serial_number,
            ttl=go_duration(kept.workload.not_after_s - now_s),
        )
        return msgspec.structs.replace(
            fresh,
            workload=kept.workload,
            trust_bundle=kept.trust_bundle,
            roots_version_info=kept.roots_version_info,
            last_version=kept.last_version,
        )

    def save(self, identity: Identity) -> None:
        """Keep this identity for the container's next start."""
        if self._file is None or identity.workload is None:
            return
        kept = Kept(
            spiffe_id=self._spiffe_id,
            workload=identity.workload,
            trust_bundle=identity.trust_bundle,
            roots_version_info=identity.roots_version_info,
            last_version=identity.last_version,
        )
        try:
            self._file.save(kept)
        except NotKeptError as error:
            say = _log.debug if self._said else _log.info
            say(f"the identity is not kept for a start while the CA is down: {error}")
            self._said = True

    def forget(self) -> None:
        """Leave nothing of it: the pod ends."""
        if self._file is not None:
            self._file.remove()
