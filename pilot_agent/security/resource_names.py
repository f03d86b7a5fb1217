"""Which material an SDS resource name asks for."""

from typing import Final

import msgspec

WORKLOAD: Final = "default"
ROOTS: Final = "ROOTCA"
_FILE_CERT: Final = "file-cert:"
_FILE_ROOT: Final = "file-root:"
OS_ROOTS: Final = "file-root:system"


class ResourceNameError(ValueError):
    """The name can mean no material; the text says why."""


class FileCert(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair in two files."""

    cert_path: str
    key_path: str


class FileRoot(msgspec.Struct, frozen=True, kw_only=True):
    """Roots in one file; an empty path is the operating system's bundle."""

    root_path: str


def file_source(resource_name: str) -> FileCert | FileRoot | None:
    """Return which files a name means; None for anything else, malformed file names included.

    Raises:
        ResourceNameError: a part that must not be empty is (the reference crashes on it).

    Source: the reference's secret manager, resource names.
    """
    if resource_name == OS_ROOTS:
        return FileRoot(root_path="")
    if resource_name.startswith(_FILE_CERT):
        parts = resource_name.removeprefix(_FILE_CERT).split("~")
        if len(parts) != 2:
            return None
        if not all(parts):
            raise ResourceNameError(f"{resource_name}: certificate and key path expected on both sides of ~")
        return FileCert(cert_path=parts[0], key_path=parts[1])
    if resource_name.startswith(_FILE_ROOT) and "~" not in resource_name:
        path = resource_name.removeprefix(_FILE_ROOT)
        if not path:
            raise ResourceNameError(f"{resource_name}: a path expected after the colon")
        return FileRoot(root_path=path)
    return None


def material_name(resource_name: str, *, has_os_roots: bool = True) -> str:
    """Return the name under which the material is kept: any unknown name is the workload's pair.

    Kept as the reference has it, on purpose: configurations rely on it, and whoever can ask here can ask
    for "default" anyway.

    Raises:
        ResourceNameError: as `file_source`.
    """
    if resource_name == ROOTS:
        return ROOTS
    if resource_name == OS_ROOTS and not has_os_roots:
        return WORKLOAD
    return WORKLOAD if file_source(resource_name) is None else resource_name


def is_roots(material: str) -> bool:
    """Return whether this material is trust anchors rather than a key pair."""
    return material == ROOTS or material.startswith(_FILE_ROOT)
