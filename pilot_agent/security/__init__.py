"""The workload's identity: key, certificate, roots, and how Envoy is given them (SDS).

Nothing is imported here: the key worker starts before everything else and must find its module without
paying for the others. Modules that need `cryptography` are `key_worker` and `file_worker`;
they, and `sign_worker`, run in short-lived worker processes only.
"""
