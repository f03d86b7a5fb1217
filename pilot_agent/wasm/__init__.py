"""Wasm modules named in ECDS: fetched, kept in a cache, and handed to Envoy as local files.

Only `ecds`, `in_flight`, `options` and `work` may be imported by a long-lived process; all else, with
protobuf, ssl and hashlib behind it, runs in a short-lived worker.
"""
