"""An init container waits for this command: it loads what it needs, and nothing heavy."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
HEAVY = {
    "asyncio",
    "cryptography",
    "ctypes",
    "google.protobuf",
    "grpc",
    "http.client",
    "inspect",
    "ipaddress",
    "logging",
    "msgspec",
    "multiprocessing",
    "pathlib",
    "psutil",
    "pykka",
    "random",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib.request",
    "yaml",
}
SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pilot_agent.cli import main
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
status = main(["istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--dry-run"])
import pilot_agent.capture.apply
sys.stderr.write(" ".join(sys.modules))
"""


def test_the_path_of_an_init_container_imports_nothing_heavy() -> None:
    words = [sys.executable, "-I", "-S", "-c", SCRIPT, str(REPOSITORY)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.split())

    assert "pilot_agent.capture.apply" in loaded
    assert loaded & HEAVY == set()
    assert len([name for name in loaded if name.startswith("pilot_agent")]) < 50
