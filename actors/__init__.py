"""Who talks to whom: one module an actor, `messages` for what they say, `runtime` for how they live."""
