"""gRPC servers on Unix sockets: the path is never absent, and nobody removes a successor's socket."""

from pilot_agent.sockets.unix import BoundSocket, SocketError, adopt_unix, heirlooms, listen_unix

__all__ = ["BoundSocket", "SocketError", "adopt_unix", "heirlooms", "listen_unix"]
