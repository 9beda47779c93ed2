"""What the axes of a network's values stand for: the batch, channels, or places of the input.

One pass of the network is watched, operation by operation, as PyTorch runs it. For each operation a rule says how the axes of
its output follow from those of its operands: a convolution keeps the batch and the places and makes new channels, a
permutation moves axes, a view splits and joins them. So the axes of a layer's output are known from how they were computed,
and nothing is guessed from sizes.

Read the files in this order. Each imports only those before it:

- `labels`: what one axis counts, and how labels are split, joined, merged and resized;
- `store`: the labels of all tensors of a pass;
- `moves`: rules of operations that move entries, such as views, permutations and slices;
- `sums`: rules of operations that weigh, sum or choose entries, such as convolutions, products and attention;
- `watch`: the table from an operation's name to its rule, and the dispatch mode that applies the rules;
- `reading`: runs a watched pass, and summarises the labels of a layer's values for other packages.

Other packages import the names exported here. To add an operation, write its rule in `moves` or `sums`, and put its name
into a table of `watch`. A rule reads labels and makes new ones; it runs no operation of its own and changes no tensor.
"""

from sfumato.layers.axes.labels import Label, Labels
from sfumato.layers.axes.reading import Axes, Axis, Piece, axes_of, following, summarise
from sfumato.layers.axes.watch import Watch

__all__ = ["Axes", "Axis", "Label", "Labels", "Piece", "Watch", "axes_of", "following", "summarise"]
