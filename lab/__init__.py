"""A small control plane for trying out and for tests. In a mesh istiod does this job.

What is here answers xDS and signs certificates so that a person can see the agent at work on one
machine without Kubernetes, and so that tests meet a control plane whose every answer and failure they
choose. It keeps its CA key in memory, knows no policy and no tenants, and must not serve a real mesh.
The product never imports it: only `bin/demo`, the benchmarks and the tests do.
"""
