"""An istiod in a process of its own, and what it tells."""

import queue
import time
from pathlib import Path
from typing import Any

import grpc

from benchmarks.istiod_apart import IstiodApart
from benchmarks.rig import mesh_on_free_ports
from tests.support.fake_istiod import METHODS
from tests.support.xds_messages import CDS, request


def test_a_request_is_told_with_the_time_at_which_it_was_read(tmp_path: Path) -> None:
    with IstiodApart(mesh_on_free_ports()) as istiod:
        istiod.provision(tmp_path, "default", "bookinfo-apps")
        secrets = tmp_path / "var/run/secrets"
        root = grpc.ssl_channel_credentials((secrets / "istio/root-cert.pem").read_bytes())
        token = (secrets / "tokens/istio-token").read_text()
        asking: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        began_s = time.perf_counter()
        with grpc.secure_channel(istiod.address, root) as channel:
            call: Any = channel.stream_stream(METHODS["delta"], None, None)
            asking.put(request("delta", CDS, node="sidecar~1").SerializeToString())
            answers = call(iter(asking.get, b""), metadata=(("authorization", f"Bearer {token}"),))
            (asked,) = istiod.asked(20.0)
            assert next(answers)
            assert list(istiod.asked(0.0)) == []
            asking.put(b"")
        assert (asked.node_id, asked.type_url, asked.is_answer) == ("sidecar~1", CDS, False)
        assert began_s < asked.at_s < time.perf_counter()
