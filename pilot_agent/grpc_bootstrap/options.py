"""Where the file is to be, and what is to stand in it: found out before anything is forked."""

from pathlib import Path
from typing import Final, Self

import msgspec

from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.environment import Environment
from pilot_agent.envoy.bootstrap_file import Owner, write
from pilot_agent.grpc_bootstrap.document import document
from pilot_agent.health.options import grpc_bootstrap_path

_MODE: Final = 0o644


class GrpcBootstrapError(OSError):
    """The file cannot be written; the text is what the user reads."""


class GrpcBootstrapOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the bootstrap file; without a path there is none."""

    path: str = ""
    content: bytes = b""

    @classmethod
    def build(cls, environment: Environment, bootstrap: BootstrapOptions, *, certificates: str) -> Self:
        """Read the variable and make the document; `certificates` is OUTPUT_CERTS."""
        path = grpc_bootstrap_path(environment)
        if not path:
            return cls()
        whole = document(
            socket_path=str(Path(bootstrap.proxy_config.config_path) / "XDS"),
            node_id=bootstrap.node_id,
            metadata=bootstrap.metadata,
            locality=bootstrap.locality,
            certificates=certificates,
        )
        return cls(path=path, content=msgspec.json.format(msgspec.json.encode(whole), indent=2))

    def write(self) -> None:
        """Put the file in place, if there is to be one.

        Raises:
            GrpcBootstrapError: it cannot be written.
        """
        if not self.path:
            return
        try:
            write(self.path, self.content, Owner(), mode=_MODE)
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            raise GrpcBootstrapError(
                f"failed generating gRPC XDS bootstrap: failed writing to {self.path}: {words}"
            ) from error
