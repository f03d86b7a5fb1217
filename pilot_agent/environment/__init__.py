"""The environment's variables, read by the rules of the reference (spec: environment, reading rules).

One `Environment` is made from `os.environ` when the process starts; everything else gets it as an
argument, so that a test hands in a dict.
"""

from pilot_agent.environment.duration import duration_s, go_duration
from pilot_agent.environment.reader import Environment

__all__ = ["Environment", "duration_s", "go_duration"]
