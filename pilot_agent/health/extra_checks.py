"""The readiness checks beside Envoy's: the gRPC bootstrap file, and the first name table."""

import json
import os
import threading
from pathlib import Path
from typing import Any, Final

DNS_TEXT: Final = "istio DNS capture is turned ON and DNS lookup table is not ready yet"


class GrpcBootstrapCheck:
    """The bootstrap file for proxyless gRPC can be read (asked once), and its certificate files exist.

    Source: the reference's gRPC readiness probe. Beside an Envoy, certificate files that the agent cannot
    write are a feature that is off, no reason to take the pod out of service.
    """

    def __init__(self, path: str, *, beside_envoy: bool = False) -> None:
        self._path, self._beside_envoy = path, beside_envoy
        self._files: tuple[str, ...] | None = None
        self._lock = threading.Lock()

    def refusal(self) -> str | None:
        """Return None when all is there, else the reason."""
        with self._lock:
            try:
                if self._files is None:
                    self._files = _certificate_files(json.loads(Path(self._path).read_bytes()))
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                return f"failed loading {self._path}: open {self._path}: {words}"
            except (ValueError, AttributeError, TypeError) as error:
                return f"failed loading {self._path}: {error}"
            missing = next((path for path in self._files if not Path(path).exists()), None)
            if missing is None or (self._beside_envoy and not _can_be_written(Path(missing))):
                return None
            return f"{missing} does not exist"


def _can_be_written(path: Path) -> bool:
    nearest = next((each for each in path.absolute().parents if each.exists()), None)
    return nearest is not None and nearest.is_dir() and os.access(nearest, os.W_OK)


def _certificate_files(document: Any) -> tuple[str, ...]:  # Any: JSON from a file
    for provider in (document.get("certificate_providers") or {}).values():
        if provider.get("plugin_name") == "file_watcher":
            config = provider.get("config") or {}
            names = ("certificate_file", "private_key_file", "ca_certificate_file")
            return tuple(config[name] for name in names if config.get(name))
    return ()
