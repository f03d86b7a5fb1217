"""What the actors say to each other: frozen data, one module per owner.

A command is an imperative with one receiver; an event is in the past tense or names a state
reached. Every message travels through a channel (`actors.runtime.channels`) as msgpack and is
validated on receipt. A field named `body` is the exception: its bytes travel raw beside the
message, so that a payload is never decoded, nor copied into an encoder, on its way.
"""
