"""Families of masks: parameters on a coarse lattice to smooth masks of an input, and the penalties of published methods.

`smooth` first: the masks of extremal perturbations. `grid` are those of 2017, `canvas` TorchRay's, `channels` those of a layer.
`lengths` are those of a family that its settings give, or the input's shape.
"""
