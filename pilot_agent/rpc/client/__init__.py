"""gRPC's client side: one connection for one call, over TCP, with TLS by the standard library.

grpcio costs a process 8.5 MB and 110 ms of its CPU at the import. See docs/decisions/grpc-of-our-own.md.
"""

from pilot_agent.rpc.client.call import ClientCall, Keepalive
from pilot_agent.rpc.client.target import Secured, Target, TargetError

__all__ = ["ClientCall", "Keepalive", "Secured", "Target", "TargetError"]
