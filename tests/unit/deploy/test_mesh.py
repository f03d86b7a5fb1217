"""The values and annotations of `deploy/mesh`, held against what the injector rendered from the like."""

import configparser
import re
from pathlib import Path
from typing import Any

import yaml

from pilot_agent.status.catalogue import FAMILIES

REPOSITORY = Path(__file__).parents[3]
MESH = REPOSITORY / "deploy" / "mesh"
IMAGE = "HUB/python-agent:TAG"


def read(path: Path) -> Any:  # Any: YAML
    return yaml.safe_load(path.read_text())


def rendered(name: str) -> Any:  # Any: YAML
    return read(REPOSITORY / "tests" / "data" / "pods" / f"{name}.yaml")["spec"]["template"]


def test_the_annotation_is_the_one_that_gave_both_containers_the_image() -> None:
    ((name, value),) = read(MESH / "one-pod.yaml")["spec"]["template"]["metadata"]["annotations"].items()
    template = rendered("sidecar-proxy-image")
    assert template["metadata"]["annotations"][name] == value == IMAGE
    assert "/" in value  # or it is ignored in silence
    containers = [*template["spec"]["initContainers"], *template["spec"]["containers"]]
    ours = {one["name"]: one["image"] for one in containers if one["name"].startswith("istio-")}
    assert ours == {"istio-init": IMAGE, "istio-proxy": IMAGE}


def test_the_values_name_the_image_twice_in_full() -> None:
    values = read(MESH / "values.yaml")
    assert values == {"global": {"proxy": {"image": IMAGE}, "proxy_init": {"image": IMAGE}}}


def test_every_rendered_container_leaves_the_command_to_the_image() -> None:
    for file in sorted((REPOSITORY / "tests" / "data" / "pods").glob("*.yaml")):
        spec = read(file)["spec"]["template"]["spec"]
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            if container["name"].startswith("istio-"):
                assert "command" not in container, file.name
                assert container["args"][0] in ("proxy", "istio-iptables"), file.name


def test_the_documents_name_files_that_are_there() -> None:
    text = (REPOSITORY / "docs" / "INSTALL.md").read_text()
    for name in (
        "deploy/image/make-root",
        "deploy/image/requirements.txt",
        "deploy/image/lock-requirements",
        "bin/build-single-file",
        "deploy/vm/istio-start.sh",
        "deploy/vm/istio.service",
    ):
        assert name in text
        assert (REPOSITORY / name).is_file(), name


def test_the_lock_has_every_package_that_the_agent_asks_for() -> None:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    wanted = parser["options"]["install_requires"] + parser["options.extras_require"]["envoy"]
    names = {re.split(r"[<>=]", line.strip())[0].lower() for line in wanted.splitlines() if line.strip()}
    locked = (REPOSITORY / "deploy" / "image" / "requirements.txt").read_text()
    pinned = {line.split("==")[0] for line in locked.splitlines() if "==" in line}
    assert names <= pinned, f"run deploy/image/lock-requirements: {sorted(names - pinned)}"


def test_what_is_to_be_watched_is_there_to_be_seen() -> None:
    named = re.findall(r"`istio_agent_(\w+)`", (MESH / "README.md").read_text())
    assert len(named) >= 4
    assert set(named) <= FAMILIES.keys()
