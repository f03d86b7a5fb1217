"""What a process does to its own memory."""

import subprocess
import sys


def test_forgotten_code_is_unmapped_and_comes_back_when_it_is_used() -> None:
    program = """
import hashlib, ssl
from actors.runtime import process

def mapped_kb():
    found = [line.split() for line in open("/proc/self/smaps_rollup")]
    sizes = {words[0]: int(words[1]) for words in found if words[0].endswith(":")}
    return sizes["Rss:"] - sizes["Anonymous:"]

ssl.create_default_context()
before = mapped_kb()
process.forget_code()
after = mapped_kb()
ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
print(after < before / 2, hashlib.sha256(b"").hexdigest()[:8])
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == ["True", "e3b0c442"]
