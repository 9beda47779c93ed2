"""Layers of a user's model: watching one, reading its axes, and running the network up to it or from it.

`capture` first: which module a name means, which of its calls, and what it puts out there. `axes` and `tokens` say where the
channels and the places are.
"""
