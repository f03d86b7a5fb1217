"""Measurements of the whole agent, one module a question: memory, startup, latency.

    python -m benchmarks [memory|startup|latency|all] [--json FILE]
    python -m benchmarks.soak [--hours N | --minutes N]: does anything grow?

Each measures beside something else in the same run, so that a figure means something on another machine:
memory beside idle, the start beside the same Envoy alone, latency beside a direct stream. One at a time,
and on a quiet machine: the load is printed with the figures.
"""
