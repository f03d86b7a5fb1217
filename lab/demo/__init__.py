"""Shows the agent at work on one machine: `bin/demo`.

A control plane of the lab, bookinfo, one `proxy router` and one `proxy sidecar` with real Envoys, on
loopback and without root. Each step says what it did and whether it held.
"""
