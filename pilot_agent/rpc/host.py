"""What a connection asks of the server that it belongs to."""

from typing import Protocol

from pilot_agent.rpc.call import Call
from pilot_agent.rpc.gate import Gate
from pilot_agent.rpc.inlet import StopSign


class Host(Protocol):
    """Whoever serves the calls."""

    gate: Gate  # through which the answers of calls that last go
    stop: StopSign  # raised when the connections are to go to another process

    def begin(self, call: Call) -> None:
        """Serve this call, or finish it."""

    def resume_call(self, call: Call, state: bytes) -> None:
        """Go on with a call that another process began.

        Raises:
            ValueError: what its method has kept cannot be understood.
        """

    def ended(self, call: Call) -> None:
        """Forget this call; told once for each that was begun or resumed."""
