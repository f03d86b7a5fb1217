"""The file by which gRPC applications without an Envoy find the agent's xDS server (proxyless gRPC)."""

from pilot_agent.grpc_bootstrap.options import GrpcBootstrapError, GrpcBootstrapOptions

__all__ = ["GrpcBootstrapError", "GrpcBootstrapOptions"]
