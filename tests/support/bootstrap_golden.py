"""Recorded runs of the reference's `pilot-agent proxy`, replayed on the functions below the command line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilot_agent.bootstrap import BootstrapOptions
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Loaded, ProxyFlags, load

CLI_GOLDENS = Path(__file__).parents[1] / "data" / "bootstrap-goldens" / "cli"

_FLAGS = {
    "--domain": "domain",
    "--proxyLogLevel": "proxy_log_level",
    "--proxyComponentLogLevel": "proxy_component_log_level",
    "--concurrency": "concurrency",
    "--templateFile": "template_file",
    "--log_as_json": "log_as_json",
    "--outlierLogPath": "outlier_log_path",
}
_IGNORED = ("--log_output_level", "--controlPlaneBootstrap", "--trust-domain")
_SDS_SOCKET = "var/run/secrets/workload-spiffe-uds/socket"
_CREDENTIAL_SOCKET = "var/run/secrets/credential-uds/socket"


@dataclass(frozen=True)
class GoldenCase:
    """One folder: inputs and what Envoy was given."""

    name: str
    case: Mapping[str, Any]  # Any: JSON
    bootstrap: Any  # JSON, or the text of a file that is none, or None

    def loaded(self, working_dir: Path) -> Loaded:
        """Write the case's files below `working_dir` and load its configuration."""
        for name, text in self.case["files"].items():
            path = working_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        addresses = tuple(text.partition("/")[0] for text in self.case["interface_addresses"])
        return load(
            self.environment, self.flags, working_dir, read_interfaces=lambda: {"v0": addresses}, cpu_count=2
        )

    def options(self, working_dir: Path) -> BootstrapOptions:
        """Return the settings of the generator for this case."""
        socket = self.case.get("live_grpc_socket", "")
        return BootstrapOptions.build(
            self.environment,
            self.loaded(working_dir),
            working_dir=working_dir,
            credential_socket=socket == _CREDENTIAL_SOCKET,
            external_sds=socket == _SDS_SOCKET,
        )

    @property
    def environment(self) -> Environment:
        return Environment(self.case["env"])

    @property
    def flags(self) -> ProxyFlags:
        values: dict[str, Any] = {}
        words = iter(self.case["args"][1:])
        for word in words:
            name, _, value = word.partition("=")
            if not word.startswith("--"):
                values["role"] = word
            elif name == "--log_as_json":
                values["log_as_json"] = True
            elif name in _FLAGS or name in _IGNORED:
                value = value or next(words)
                if name in _FLAGS:
                    values[_FLAGS[name]] = int(value) if name == "--concurrency" else value
            else:
                raise AssertionError(f"{self.name}: unknown flag {word}")
        return ProxyFlags(**values)


def golden_cases(folder: Path = CLI_GOLDENS) -> list[GoldenCase]:
    """Return all cases below a folder, by name."""
    return [_read(path.parent) for path in sorted(folder.glob("*/case.json"))]


def differences(want: Any, got: Any, path: str = "$") -> Iterator[str]:
    """Yield one line for each difference between two JSON documents."""
    numbers = isinstance(want, int | float) and isinstance(got, int | float)
    if type(want) is not type(got) and not numbers:
        yield f"{path}: want {want!r}, got {got!r}"
    elif isinstance(want, dict):
        for key in sorted(want.keys() | got.keys()):
            if key not in got:
                yield f"{path}.{key}: missing, want {want[key]!r}"
            elif key not in want:
                yield f"{path}.{key}: not wanted, got {got[key]!r}"
            else:
                yield from differences(want[key], got[key], f"{path}.{key}")
    elif isinstance(want, list):
        if len(want) != len(got):
            yield f"{path}: want {len(want)} entries, got {len(got)}"
        for at, (one, other) in enumerate(zip(want, got, strict=False)):
            yield from differences(one, other, f"{path}[{at}]")
    elif want != got:
        yield f"{path}: want {want!r}, got {got!r}"


def _read(folder: Path) -> GoldenCase:
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    document, text = folder / "bootstrap.json", folder / "bootstrap.txt"
    golden: Any = None
    if document.exists():
        golden = json.loads(document.read_text(encoding="utf-8"))
    elif text.exists():
        golden = text.read_text(encoding="utf-8")
    return GoldenCase(name=folder.name, case=case, bootstrap=golden)
