"""Layers of a user's model: watching one, reading its axes, and running the network below it or above it.

A layer is named by a module's dotted name, a side (`at`, "output" or "input") and the number of a call (`call`). Read the
files in this order:

- `capture`: the one way to watch a layer: the module of a name, hooks on one module or on many, the choice of a call, the
  error messages. All files below use it;
- `below`: inputs → activations. The forward pass stops at the layer. Used by feature inversion and `sfumato.activations`;
- `replay`: activations → outputs. One pass stores what the network computes below the layer; later passes reuse it;
- `above`: activations → scores. A subject whose inputs are the layer's activations and whose model is a replay. Used where
  channels are masked;
- `flow`: inputs → activations and gradients, in one forward and one backward pass. Used by gradient methods;
- `axes`, then `tokens`: which axis of the activations is the batch, which are channels, and which are places;
- `outline`: all layers of a network, with their shapes;
- `default`: the layer that a method takes if none is named.

Methods call `below`, `above` and `flow`. A new effect on a layer begins with `capture.watched` or `capture.captured`. Only
`model.effects` sets hooks of torch.
"""
