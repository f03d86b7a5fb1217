"""What a pod's containers have as their root: this machine's parts that an image would have, or an image."""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.agent import REPOSITORY
from tests.support.real_envoy import envoy_path

_LIKE_AN_IMAGE = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ssl", "/etc/alternatives")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_LAUNCHER = """#!{python} -I
import sys
if "{place}":
    sys.path.insert(0, "{place}")
from pilot_agent.cli import main
sys.exit(main())
"""

_WITHOUT_EXTENSIONS_OF_ISTIO = """#!{python} -IS
# Istio's build of Envoy has this extension, the public one refuses a bootstrap that names it.
import json, os, sys
words = sys.argv[1:]
at = words.index("-c")
with open(words[at + 1]) as file:
    bootstrap = json.load(file)
for key in ("bootstrap_extensions", "bootstrapExtensions"):
    bootstrap.pop(key, None)
words[at : at + 2] = ["--config-yaml", json.dumps(bootstrap)]
os.execv("/opt/envoy/envoy", ["envoy", *words])
"""


@dataclass(frozen=True, kw_only=True)
class Root:
    """`binds`: place → what is shown there; `files`: programs made for the container; or a whole image.

    With `set_gid` the agent's program belongs to this group and has its set-gid bit, as on a virtual machine.
    """

    binds: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    image: str = ""
    set_gid: int = 0
    path: str = _SYSTEM_PATH

    @classmethod
    def of_image(cls, directory: Path) -> Self:
        """Return a root directory that has everything in its place already."""
        return cls(image=str(directory))

    @classmethod
    def of_this_machine(cls, *, stock_envoy: bool = False, program: Path | None = None) -> Self:
        """Return the system's programs, this interpreter, the agent under test and Envoy.

        `stock_envoy` keeps from Envoy what only Istio's own build of it can do; `program` is the agent as
        one file, which finds its interpreter on PATH.
        """
        binds = {place: place for place in _LIKE_AN_IMAGE if Path(place).exists()}
        for part in sorted(Path("/usr").iterdir()):
            if part.name != "local":
                binds[str(part)] = str(part)
        interpreters = {Path(sys.prefix), Path(sys.base_prefix), REPOSITORY}
        for prefix in interpreters:
            if not prefix.is_relative_to("/usr") or prefix.is_relative_to("/usr/local/"):
                binds[str(prefix)] = str(prefix)
        if Path(sys.base_prefix) == Path("/usr/local"):
            binds |= {str(path): str(path) for path in _interpreter_below_usr_local()}
        binds = {place: source for place, source in binds.items() if not _is_below_another(place, binds)}
        binds["/opt/envoy/envoy" if stock_envoy else "/usr/local/bin/envoy"] = str(envoy_path())
        script = _LAUNCHER.format(python=sys.executable, place="" if _is_installed() else str(REPOSITORY))
        passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
        files = {"/usr/local/bin/pilot-agent": script, "/etc/passwd": passwd, "/etc/group": "root:x:0:\n"}
        path = _SYSTEM_PATH
        if program is not None:
            del files["/usr/local/bin/pilot-agent"]
            binds["/usr/local/bin/pilot-agent"] = str(program)
            path = f"{sys.base_prefix}/bin:{path}"
        if stock_envoy:
            files["/usr/local/bin/envoy"] = _WITHOUT_EXTENSIONS_OF_ISTIO.format(python=sys.executable)
        return cls(binds=binds, files=files, path=path)


def _is_installed() -> bool:
    """Return whether the tests try an installed package and not the checkout."""
    return shutil.which("pilot-agent", path=str(Path(sys.executable).parent)) is not None


def _interpreter_below_usr_local() -> list[Path]:
    return [*Path("/usr/local/bin").glob("python*"), Path("/usr/local/lib")]


def _is_below_another(place: str, places: dict[str, str]) -> bool:
    return any(place != other and Path(place).is_relative_to(other) for other in places)
