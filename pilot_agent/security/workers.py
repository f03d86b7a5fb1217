"""Where the workers' functions are, by kind; the modules themselves are imported in the worker alone."""

from typing import Final

WORKERS: Final = {
    "key": "pilot_agent.security.key_worker:make_key",
    "sign": "pilot_agent.security.sign_worker:sign",
    "token": "pilot_agent.security.gce_token:refresh",
    "files": "pilot_agent.security.file_worker:read_files",
}
"""Worker kind → "module:function"; each function takes a request's bytes and returns a result's."""
