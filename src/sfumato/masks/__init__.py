"""Families of masks: parameters on a coarse lattice to masks of an input, and the penalties of published methods.

`level_set` are sets with smooth outlines; `smooth` are the paper's masks, `grid` those of 2017, `canvas` TorchRay's,
`channels` those of a layer. `regions` divide an input into parts that are shown or hidden as a whole. `lengths` are those of a
family that its settings give, or the input's shape.
"""
