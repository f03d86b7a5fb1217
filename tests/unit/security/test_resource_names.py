import pytest

from pilot_agent.security.identity import spiffe_id
from pilot_agent.security.resource_names import (
    FileCert,
    FileRoot,
    ResourceNameError,
    file_source,
    is_roots,
    material_name,
)


@pytest.mark.parametrize(
    ("name", "source", "material"),
    [
        ("default", None, "default"),
        ("ROOTCA", None, "ROOTCA"),
        ("file-cert:/c~/k", FileCert(cert_path="/c", key_path="/k"), "file-cert:/c~/k"),
        ("file-root:/r", FileRoot(root_path="/r"), "file-root:/r"),
        ("file-root:system", FileRoot(root_path=""), "file-root:system"),
        ("file-cert:/c", None, "default"),
        ("file-cert:/c~/k~/x", None, "default"),
        ("file-root:/r~/x", None, "default"),
        ("anything", None, "default"),
    ],
)
def test_a_name_means_files_or_falls_through_to_the_workload(
    name: str, source: FileCert | FileRoot | None, material: str
) -> None:
    assert file_source(name) == source
    assert material_name(name) == material


def test_without_an_os_bundle_its_name_falls_through_too() -> None:
    assert material_name("file-root:system", has_os_roots=False) == "default"


@pytest.mark.parametrize("name", ["file-root:", "file-cert:~/k", "file-cert:/c~", "file-cert:~"])
def test_a_name_with_an_empty_part_is_an_error_and_no_crash(name: str) -> None:
    with pytest.raises(ResourceNameError, match="expected"):
        material_name(name)


def test_roots_are_told_from_pairs() -> None:
    assert [is_roots(name) for name in ("ROOTCA", "file-root:/r", "default", "file-cert:a~b")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_spiffe_id_keeps_empty_parts() -> None:
    assert spiffe_id("cluster.local", "", "x y") == "spiffe://cluster.local/ns//sa/x y"
