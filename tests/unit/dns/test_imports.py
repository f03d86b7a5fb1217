"""What the DNS proxy adds to the image that all actors are forked from."""

import subprocess
import sys


def test_neither_dnspython_nor_anything_heavy_is_loaded() -> None:
    heavy = ("dns", "google.protobuf", "asyncio", "ssl", "email", "http.client", "tempfile", "shutil", "yaml")
    code = (
        "import sys; import grpc; had = set(sys.modules);"
        "import actors.dns, pilot_agent.dns.workers;"
        f"print([name for name in {heavy!r} if name in sys.modules and name not in had])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
