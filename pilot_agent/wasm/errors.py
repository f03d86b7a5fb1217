"""Why a module is not there, sorted by what is counted and by what istiod is told."""


class WasmError(Exception):
    """A module cannot be had: the last good filter goes on, or one that allows or denies all comes.

    `result` is the conversion's label in `wasm_config_conversion_count`.
    """

    result = "fetch_failure"


class MissingSourceError(WasmError):
    """The configuration does not say from where."""

    result = "miss_remote_fetch_hint"


class FetchError(WasmError):
    """The download failed; `fetch_result` is its label in `wasm_remote_fetch_count`."""

    fetch_result = "download_failure"


class ManifestError(FetchError):
    """The registry's answer about the image cannot be had or used."""

    fetch_result = "manifest_failure"


class ChecksumError(FetchError):
    """Something else came than what was asked for."""

    fetch_result = "checksum_mismatched"


class InvalidModuleError(FetchError):
    """What came is no Wasm module."""

    fetch_result = "fetch_failure"


class RejectedError(Exception):
    """The resource cannot be understood: istiod gets a NACK with this text.

    `result` is the conversion's label.
    """

    result = "unmarshal_failure"
