"""Layers of a user's model: watching one, reading its axes, and running the network below it or above it.

A layer is a module's dotted name, the side that counts (`at` "output" or "input") and which of its calls (`call`). Read the
files in this order:

- `capture`: the one way to see a layer: the module of a name, hooks on one module or on many, which call is meant, the error
  messages. All files below use it;
- `below`: inputs → activations. The forward pass stops at the layer. Used by feature inversion and `sfumato.activations`;
- `replay`: activations → outputs. What the network computed below the layer is stored in one pass and put in again;
- `above`: activations → scores. A subject like that of the model, whose inputs are the layer's activations and whose model is
  a replay. Used where channels are masked;
- `flow`: inputs → activations and gradients, in one pass up and one down. Used by gradient methods;
- `axes`, then `tokens`: which axis of the activations is the batch, which are channels, and which are places;
- `outline`: all layers of a network, with their shapes.

Methods call `below`, `above` and `flow`. A new effect on a layer begins with `capture.watched` or `capture.captured`; hooks of
torch are set by `model.effects` alone.
"""
