"""The last known good configuration: what Envoy has accepted, kept on disk for a start without istiod.

One file a type, in `var/lib/istio/data/xds-last-known-good`, bound to the node. Resources are opaque
bytes. `keeper` decides what is kept, `store` writes it off the byte path, `records` is the format of a
file, `content` reads one, `answers` is the control plane that speaks from it.
"""
