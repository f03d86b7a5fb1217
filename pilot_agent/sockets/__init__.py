"""gRPC servers on Unix sockets: the path is never absent, and nobody removes a successor's socket."""

from pilot_agent.sockets.unix import BoundSocket, SocketError, bind_unix, listen_unix

__all__ = ["BoundSocket", "SocketError", "bind_unix", "listen_unix"]
