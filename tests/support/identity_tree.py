"""CertActor and SdsActor in processes of their own, under the real supervisor.

A program, since the supervisor forks: `python tests/support/identity_tree.py CA_ADDRESS` in a directory
that has the CA's root and the token (`small_ca.provision`).
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from actors.cert import CertActor
from actors.runtime import process
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import MIB, ChildSpec
from actors.runtime.supervisor import Supervisor
from actors.sds import SdsActor
from pilot_agent import log
from pilot_agent.environment import Environment
from pilot_agent.proxyconfig import Node, ProxyConfig
from pilot_agent.security.options import SecurityOptions
from pilot_agent.security.workers import WORKERS


def main() -> int:
    variables = {
        "CA_ADDR": sys.argv[1],
        "CA_ROOT_CA": "ca-root.pem",
        "ECC_SIGNATURE_ALGORITHM": "ECDSA",
        "POD_NAMESPACE": "default",
        "SERVICE_ACCOUNT": "reviews",
    }
    process.one_arena()
    log.configure(output_level=os.environ.get("LEVEL", ""))
    node = Node(role="sidecar", ip_addresses=("127.0.0.1",), id="a.b", domain="b.svc.cluster.local")
    options = SecurityOptions.build(Environment(variables), ProxyConfig(), node)
    supervisor = Supervisor(
        tuple(
            ChildSpec(role=role, actor=actor, quit_s=5.0, private_limit_bytes=96 * MIB, holds_secrets=True)
            for role, actor in ((Role.SDS, SdsActor), (Role.CERT, CertActor))
        ),
        settings=Settings([options]),
        workers=WORKERS,
        envoy_after=frozenset(),
    )
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
