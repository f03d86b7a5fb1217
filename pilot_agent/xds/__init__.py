"""The xDS path between Envoy and istiod: envelopes, subscriptions, and the two gRPC ends.

Payloads are bytes here; nothing in this package knows an actor, and nothing imports protobuf but
`reflect_worker`, which runs in a short-lived process.
"""
