"""CertActor's part for OUTPUT_CERTS: what is served as the workload's identity is written there, too."""

from pilot_agent.log import get_logger
from pilot_agent.security import resource_names
from pilot_agent.security.material import Material
from pilot_agent.security.output_certs import CHAIN, KEY, ROOTS, OutputCerts

_log = get_logger("cache")


class Output:
    """Follows the identity; a failure is logged, and tried again at every look."""

    def __init__(self, directory: str, *, shared: bool) -> None:
        self._directory = directory
        self._output = OutputCerts(directory, shared=shared) if directory else None
        self._wanted: dict[str, bytes] = {}
        self._failed = False

    def update(self, *materials: Material) -> None:
        """Write what of these is the workload's; all at once."""
        if self._output is None:
            return
        for material in materials:
            if material.name == resource_names.WORKLOAD:
                self._wanted |= {KEY: material.private_key_pem, CHAIN: material.certificate_chain_pem}
            elif material.name == resource_names.ROOTS:
                self._wanted[ROOTS] = material.trusted_ca_pem
        self._write(self._output)

    def look(self) -> None:
        """Try again what failed."""
        if self._output is not None and self._failed:
            self._write(self._output)

    def _write(self, output: OutputCerts) -> None:
        try:
            written = output.write(self._wanted)
        except OSError as error:
            say = _log.debug if self._failed else _log.error
            say(f"failed to output certificates to {self._directory}: {error}")
            self._failed = True
            return
        self._failed = False
        if written:
            _log.debug(f"certificates written to {self._directory}")
