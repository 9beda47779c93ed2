"""A user's model while it is explained: held still, called in known modes, and read as a score.

`effects` are context managers that change a model and put it back; `modes` are those in which it is computed; `subject` is the
model with inputs and a score; `evaluate` shows it perturbed inputs; `backward` are other ways for a signal to flow back.
"""
