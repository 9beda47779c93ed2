"""The device that a command runs on: the option --device, and the line that says which one it is."""

from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.naming import check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "auto"
KINDS = ("cpu", "cuda", "mps")

Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|mps",
        help="Where the model runs; cuda:1 is the second GPU. auto takes a GPU if PyTorch finds one.",
    ),
]
"""The option --device."""


def choose(name: str) -> "torch.device":
    """The device of this name. Raises `ValueError` if there is no such device here."""
    import torch

    kind, _, index = name.partition(":")
    check_choice("--device", kind, (AUTO, *KINDS))
    if kind == AUTO:
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if not count:
        raise ValueError(f"--device {name}: PyTorch finds no such device here. Write --device cpu, or --device auto")
    if index and not (index.isdecimal() and int(index) < count):
        of_kind = kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}"
        raise ValueError(f"--device {name}: there is no such device; expected {of_kind}. Write --device {kind}")
    return torch.device(f"{kind}:{index}" if index else kind)


def place(net: "nn.Module", device: "torch.device") -> None:
    """Move a network to the device. Raises `ValueError` if that fails, e.g. for a GPU without free memory."""
    try:
        net.to(device)
    except (RuntimeError, TypeError, NotImplementedError) as error:  # TypeError: MPS has no float64
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"the model cannot be moved to {device}: {first}. Write --device cpu") from error


def in_words(device: "torch.device", name: str) -> str:
    """The device as text, for the device that was chosen by a name.

    >>> import torch
    >>> in_words(torch.device("cpu"), "cpu"), in_words(torch.device("cpu"), "auto")
    ('the CPU', 'the CPU (PyTorch finds no GPU)')
    """
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "mps":
        return "the GPU of this Mac (mps)"
    return "the CPU (PyTorch finds no GPU)" if name == AUTO else "the CPU"
