"""What the two identity actors and the supervisor must not load: each would cost every process memory."""

import subprocess
import sys

HEAVY = {
    "cryptography",
    "google",
    "proto_gen",
    "envoy",
    "yaml",
    "http.server",
    "http.client",
    "email",
    "uvloop",
}


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    return set(ran.stdout.split())


def test_the_actors_load_nothing_heavy() -> None:
    assert not HEAVY & loaded_after("import actors.cert, actors.sds, pilot_agent.security.workers")


def test_signing_loads_no_cryptography() -> None:
    assert not HEAVY & loaded_after("import pilot_agent.security.sign_worker")
