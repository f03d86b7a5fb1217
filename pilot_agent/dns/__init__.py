"""The local DNS proxy: names of the mesh from istiod's table, all others from the pod's name servers.

Pure: `table` and what it stands on (lookup), `query` and `replies` (the wire format), `responder` (what to
do with a packet). Edge: `listening` (sockets), `upstream` (forwarding), `server` (the loop around both).
Nothing here imports dnspython: docs/decisions says why.
"""
