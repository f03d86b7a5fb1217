"""The xDS path's two actors in processes of their own, under the real supervisor.

A program, since the supervisor forks: `python tests/support/xds_tree.py DIR ISTIOD_ADDRESS`. With KEEP in its
environment the last known good configuration is kept.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from actors.downstream_xds import DownstreamXdsActor
from actors.runtime import process
from actors.runtime.roles import Role
from actors.runtime.settings import Settings
from actors.runtime.specs import MIB, ChildSpec
from actors.runtime.supervisor import Supervisor
from actors.upstream_xds import UpstreamXdsActor
from pilot_agent import log
from pilot_agent.grpc_bootstrap import GrpcBootstrapOptions
from pilot_agent.wasm.options import WasmOptions
from pilot_agent.xds.options import LastKnownGood, XdsOptions


def main() -> int:
    directory, address = sys.argv[1:3]
    process.one_arena()
    log.configure(output_level=os.environ.get("LEVEL", ""))
    options = XdsOptions(
        socket_path=f"{directory}/XDS",
        upstream_address=address,
        cluster_id="Kubernetes",
        token_path="",
        is_plaintext=True,
        last_known_good=LastKnownGood(directory=f"{directory}/kept") if os.environ.get("KEEP") else None,
    )
    limit = 704 * MIB
    supervisor = Supervisor(
        (
            ChildSpec(
                role=Role.DOWNSTREAM_XDS, actor=DownstreamXdsActor, quit_s=5.0, private_limit_bytes=limit
            ),
            ChildSpec(role=Role.UPSTREAM_XDS, actor=UpstreamXdsActor, quit_s=5.0, private_limit_bytes=limit),
        ),
        settings=Settings([options, GrpcBootstrapOptions(), WasmOptions(directory=directory)]),
        workers={
            "reflect": "pilot_agent.xds.reflect_worker:reflect",
            "compact-last-known-good": "pilot_agent.xds.known_good.files:compact",
        },
        envoy_after=frozenset(),
    )
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
