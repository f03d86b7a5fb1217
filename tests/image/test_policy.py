"""COMPLIANCE_POLICY=pqc with the image's Python, whose OpenSSL is new enough to keep it."""

import os
import subprocess
from pathlib import Path

from tests.support.client_hello import read

GREETS = """
import ssl, sys
from pilot_agent.security.compliance import limits_of, restrict
assert ssl.OPENSSL_VERSION_INFO >= (3, 5), ssl.OPENSSL_VERSION
limits = limits_of("pqc")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
restrict(context, limits, *limits.groups)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
try:
    context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
except ssl.SSLWantReadError:
    sys.stdout.buffer.write(outgoing.read())
"""


def test_the_image_offers_the_hybrid_key_exchange_alone(roots: Path) -> None:
    said = subprocess.run(
        ["/usr/bin/python3", "-c", GREETS],
        env={"PYTHONPATH": "/usr/local/lib/pilot-agent"},
        preexec_fn=lambda: os.chroot(roots / "debug"),
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr.decode()
    seen = read(said.stdout)
    assert (seen.versions, seen.groups) == ([0x0304], [0x11EC])
