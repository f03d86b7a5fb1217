"""All that runs during a demo, and its end: nothing that was started is left."""

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.demo import layout
from lab.demo.agent import Agent
from lab.demo.http import get
from lab.demo.show import StepFailedError
from lab.demo.waiting import until
from lab.istiod import Istiod
from lab.mesh import Mesh, load_mesh

_QUIT_S = 10.0


class Stage:
    """Made without starting anything; leaving it ends, by pid and in reverse order, whatever was started."""

    def __init__(self, *, port_shift: int) -> None:
        self._shift, self.run = port_shift, layout.run_directory(port_shift)
        self.mesh: Mesh = load_mesh().with_ports(lambda port: port + port_shift)
        self.istiod = Istiod(self.mesh, port=layout.ISTIOD_PORT + port_shift)
        self.router = Agent(layout.router(port_shift))
        self.sidecar = Agent(layout.sidecar(port_shift))
        self.first_serial = ""  # of the certificate that the sidecar serves at first
        self._bookinfo: subprocess.Popen[bytes] | None = None

    @property
    def gateway_port(self) -> int:
        return self.mesh.gateway.listen.port

    @property
    def istiod_port(self) -> int:
        return layout.ISTIOD_PORT + self._shift

    @property
    def page_inbound_port(self) -> int:
        """Return where the sidecar takes mTLS for productpage."""
        return self.mesh.service("productpage").workloads[0].inbound.port

    @property
    def _bookinfo_log(self) -> Path:
        return self.run / "bookinfo.log"

    def start_bookinfo(self) -> None:
        """Start the applications, in a process of their own.

        Raises:
            StepFailedError: they do not come up.
        """
        command = [sys.executable, "-m", "lab.bookinfo", "--port-shift", str(self._shift)]
        self.run.mkdir(parents=True, exist_ok=True)
        with self._bookinfo_log.open("wb") as log:
            self._bookinfo = subprocess.Popen(
                command, cwd=layout.ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        until(self._all_applications_answer, what="bookinfo up", within_s=20)

    def _all_applications_answer(self) -> bool:
        assert self._bookinfo is not None, "started before"
        if self._bookinfo.poll() is not None:
            raise StepFailedError(f"it ended: {self._bookinfo_log.read_text(encoding='utf-8').strip()}")
        workloads = (one for service in self.mesh.services for one in service.workloads)
        return all(get(one.application.port, "/health").status == 200 for one in workloads)

    def start_agent(self, agent: Agent, envoy: Path) -> None:
        agent.start(self.istiod, envoy=envoy, istiod_port=self.istiod_port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        agents = (self.router, self.sidecar)
        for agent in agents:
            agent.ask_to_quit()
        for agent in agents:
            agent.wait_ended()
        if self._bookinfo is not None:
            self._bookinfo.terminate()
            try:
                self._bookinfo.wait(_QUIT_S)
            except subprocess.TimeoutExpired:
                self._bookinfo.kill()
                self._bookinfo.wait()
        self.istiod.quit()
