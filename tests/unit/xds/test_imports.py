"""What a long-lived process must not import on the xDS path."""

import subprocess
import sys


def test_the_actors_and_their_topic_import_nothing_heavy() -> None:
    heavy = ("google.protobuf", "envoy", "cryptography", "asyncio", "http.client", "ssl", "yaml", "email")
    code = (
        "import sys; import grpc; had = set(sys.modules);"
        "import actors.downstream_xds, actors.upstream_xds;"
        f"print([name for name in {heavy!r} if name in sys.modules and name not in had])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
