"""A hash that identifies a network by its modules and weights."""

import hashlib
from itertools import chain

import torch
from torch import nn

from sfumato.settings import dotted_path


def fingerprint(net: nn.Module) -> str:
    """A hash of the classes of a network's modules, and of its parameters and buffers."""
    digest = hashlib.sha256()
    for name, module in net.named_modules():
        digest.update(f"{name} {dotted_path(type(module))}\n".encode())
    for name, tensor in chain(net.named_parameters(), net.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
