"""gRPC for the agent's own Unix sockets: a small HTTP/2 server whose threads do the work themselves.

gRPC's own server hands each message through three threads and costs each process 2.5 MB and 30 ms of
imports. Here the connection's thread gives a request to its method right away, and the thread that has
a response writes it. See docs/decisions/grpc-without-its-threads.md.
"""

from pilot_agent.rpc.call import Call, Lasting, Method, Receiver, Resumption
from pilot_agent.rpc.iterating import CallEnded, Requests, iterating
from pilot_agent.rpc.server import Server
from pilot_agent.rpc.status import Code

__all__ = [
    "Call",
    "CallEnded",
    "Code",
    "Lasting",
    "Method",
    "Receiver",
    "Requests",
    "Resumption",
    "Server",
    "iterating",
]
