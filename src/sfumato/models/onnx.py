"""Classifiers in files of ONNX, run by ONNX Runtime, e.g. "onnx:model.onnx". They have no gradients."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sfumato.models.anatomy import check_has_classes, describe
from sfumato.models.checkpoint import requiring
from sfumato.models.classifier import Classifier, Preparation
from sfumato.models.embedder import Embedder
from sfumato.space.normalisation import IMAGENET_MEAN, IMAGENET_STD

OFFERS = 'a file of ONNX, for methods without gradients: pip install "sfumato[onnx]"'
"""The description of this source in `sfumato models`."""

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""The types of inputs that a picture can be given as."""

LOGITS = "logits"
"""What exporters call the output that counts."""

SIDE = 224
"""Pixels, for networks that take pictures of any size."""


class OnnxNetwork(nn.Module):
    """A session of ONNX Runtime as a network: `(N, C, H, W)` to one of the session's outputs, `(N, classes)`.

    - Of several outputs it is the one called "logits", or else the first one; `others` names the rest.
    - A program that was exported for a batch of a certain size gets its inputs in such batches, the last one filled up.
    - A program that takes `(N, H, W, C)` gets them so.
    - If this output is made of probabilities, `log_probabilities` is True, and their logarithms are returned as logits.

    It has no gradients, but may be given to `RISE`, `GreedyOrder`, `ExtremalPerturbation(ascent=EvolutionAscent())` and others
    that need none. Raises `ValueError` for a file that cannot be read, and for a program with several inputs.
    """

    digest: UInt8[Tensor, " 32"]

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ValueError(f"no file {str(path)!r}; expected a model of ONNX, e.g. onnx:model.onnx")
        self.path, self.log_probabilities = path, False
        # A buffer, so that a network of another file is another one to whoever compares weights.
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        self._open()

    def _open(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors alone
        try:
            self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of errors for each cause, without a base of their own
            raise ValueError(
                f"ONNX Runtime cannot read {str(self.path)!r} ({error}); expected a model of ONNX"
            ) from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(
                f"{str(self.path)!r} takes {len(inputs)} inputs ({', '.join(entry.name for entry in inputs)}); a classifier "
                "takes pictures alone. Give a method a function of the pictures that runs the session, e.g. in sfumato.BlackBox"
            )
        self.input = inputs[0]
        if len(self.input.shape) != 4 or self.input.type not in TYPES:
            raise ValueError(
                f"{str(self.path)!r} takes {self.input.type} of shape {self.input.shape}; a classifier takes pictures "
                "(N, C, H, W) or (N, H, W, C) of floating-point numbers"
            )
        names = [entry.name for entry in self.session.get_outputs()]
        self.output = LOGITS if LOGITS in names else names[0]
        self.others = tuple(name for name in names if name != self.output)
        channels = self.input.shape[1]
        self.channels_last = channels not in (1, 3) and self.input.shape[3] in (1, 3)

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies, which open the file again."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("session", "input")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(dict(state))
        self._open()

    @property
    def sides(self) -> tuple[int | None, int | None, int | None]:
        """The number of channels, the height and the width of inputs; None for any."""
        axes = (3, 1, 2) if self.channels_last else (1, 2, 3)
        channels, height, width = (
            length if isinstance(length, int) and length > 0 else None
            for length in (self.input.shape[axis] for axis in axes)
        )
        return channels, height, width

    def forward(self, inputs: Float[Tensor, "N C H W"]) -> Tensor:
        """The output, `(N, classes)`, in float32, on the inputs' device."""
        array = inputs.detach().cpu().float().numpy().astype(TYPES[self.input.type])
        if self.channels_last:
            array = array.transpose(0, 2, 3, 1)
        size = self.input.shape[0]
        size = size if isinstance(size, int) and size > 0 else len(array)
        missing = -len(array) % size
        filled = np.concatenate([array, np.repeat(array[-1:], missing, 0)]) if missing else array
        parts = [
            self.session.run([self.output], {self.input.name: np.ascontiguousarray(filled[start : start + size])})[0]
            for start in range(0, len(filled), size)
        ]
        outputs = torch.from_numpy(np.concatenate(parts)[: len(array)]).float().to(inputs.device)
        return outputs.clamp(min=torch.finfo(torch.float32).tiny).log() if self.log_probabilities else outputs


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network of a file, with the preparation of most ImageNet networks for inputs of its size: 224 pixels if it takes any.

    A network trained on other values needs its own `Preparation`: `dataclasses.replace(classifier, preparation=…)`.

    Raises `ValueError` for a file that cannot be used, if its outputs are embeddings and not classes, and for a checkpoint: the
    file has the weights.
    """
    net, preparation = _network(name, checkpoint)
    net.log_probabilities = _are_probabilities(net, preparation)
    classifier = describe(f"onnx:{name}", net, preparation)
    check_has_classes(classifier)
    return classifier


def load_embedder(name: str, checkpoint: Path | None = None) -> Embedder:
    """The network of a file whose outputs are embeddings, prepared as `load` prepares one. Raises the errors of `load`."""
    net, preparation = _network(name, checkpoint)
    return Embedder(f"onnx:{name}", net.eval(), preparation, ())


def _network(name: str, checkpoint: Path | None) -> tuple[OnnxNetwork, Preparation]:
    """The network of a file, and the preparation of its inputs."""
    full_name = f"onnx:{name}"
    with requiring("onnx", full_name):
        import onnxruntime  # noqa: F401
    if checkpoint is not None:
        raise ValueError(
            f"model {full_name!r} has its weights in its own file; leave out the checkpoint {str(checkpoint)!r}"
        )
    net = OnnxNetwork(Path(name))
    channels, height, width = net.sides
    if height != width:
        raise ValueError(
            f"{name!r} takes pictures of {height} × {width} pixels, and sfumato prepares square ones; prepare inputs yourself, "
            f"and use sfumato.models.onnx.OnnxNetwork(pathlib.Path({name!r})) as the model"
        )
    side, grey = height or SIDE, channels == 1
    preparation = Preparation(
        size=side,
        resize=round(side * 256 / 224),
        mean=IMAGENET_MEAN if not grey else (sum(IMAGENET_MEAN) / 3,),
        std=IMAGENET_STD if not grey else (sum(IMAGENET_STD) / 3,),
    )
    return net, preparation


def _are_probabilities(net: OnnxNetwork, preparation: Preparation) -> bool:
    """Whether the outputs for an empty picture, and for noise, are probabilities of two classes or more."""
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(2, *preparation.shape, generator=generator, dtype=torch.float32, device="cpu")
    outputs = net(torch.cat([torch.zeros_like(noise[:1]), noise]))
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-3).all())
