"""Networks of pictures of Hugging Face's transformers, e.g. "hf:./folder" or "hf:google/vit-base-patch16-224"."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import EMBEDDING, SHOWN, loaded, requiring
from sfumato.models.class_names import filled
from sfumato.models.classifier import Classifier
from sfumato.models.detector import Detector
from sfumato.models.embedder import Embedder
from sfumato.models.transforms import TransformPreparation, prepared_by
from sfumato.scores import SIGMOID, SOFTMAX
from sfumato.scores.similarity import embedding

OFFERS = 'a model of that library: pip install "sfumato[hf]"'
"""The description of this source in `sfumato models`."""


class Logits(nn.Module):
    """A network of transformers, wrapped so that it returns only its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=inputs).logits
        return logits


@dataclass(frozen=True)
class Processing:
    """An image processor of transformers as a function from one picture to its pixel values."""

    processor: Any

    def __call__(self, picture: Image.Image | Float[Tensor, "3 H W"]) -> Any:
        """The pixel values of a picture, or of a tensor of its values from 0 to 255."""
        form = {"input_data_format": "channels_first"} if isinstance(picture, Tensor) else {}
        prepared = self.processor(images=picture, return_tensors="pt", **form)
        if "pixel_values" not in prepared:
            raise ValueError(
                f"{type(self.processor).__name__} makes {', '.join(prepared)} of a picture; expected pixel_values (B, C, H, W)"
            )
        return prepared["pixel_values"][0]


class Boxes(nn.Module):
    """A detector of transformers that returns its `logits` and `pred_boxes` alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        outputs = self.model(pixel_values=inputs)
        return {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}


class Embeddings(nn.Module):
    """A network of transformers that returns one embedding `(N, D)` for each picture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        of_pictures: Any = getattr(
            self.model, "get_image_features", self.model
        )  # CLIP and its relatives read texts too
        return embedding(of_pictures(pixel_values=inputs), "", len(inputs))


MULTI_LABEL = "multi_label_classification"
"""What a config.json says of a network whose classes have a sigmoid each, as its library's own pipeline takes it."""

DETECTION, SEGMENTATION = "ForObjectDetection", "ForSemanticSegmentation"
"""How the names of transformers' architectures end."""


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network of a local folder, or of a repository that is downloaded on first use. A checkpoint replaces its weights.

    It is a classifier, of several labels if its config.json says so, or a detector or a segmentation. A checkpoint may have
    another number of classes. Raises `ValueError` if there is no such network, or if its weights lack the classifier.
    """
    full_name = f"hf:{name}"
    with requiring("hf", full_name):
        import transformers
    with _loading(name):
        config = transformers.AutoConfig.from_pretrained(name)
    architectures = config.architectures or [""]
    detects, segments = (architectures[0].endswith(ending) for ending in (DETECTION, SEGMENTATION))
    auto: Any = transformers.AutoModelForImageClassification
    if detects or segments:
        auto = transformers.AutoModelForObjectDetection if detects else transformers.AutoModelForSemanticSegmentation
    if type(config) not in auto._model_mapping:
        raise _other_kind(full_name, config)
    with _loading(name):
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    net, names = _network(name, auto, config, checkpoint, no_object(config) if detects else 0)
    labels = filled(names or config.id2label, config.num_labels)
    prepared = preparation(full_name, processor)
    if detects and getattr(processor, "do_pad", False) and (padded := getattr(processor, "pad_size", None)):
        raise ValueError(
            f"model {full_name!r} has its pictures padded to {padded}, and its boxes are fractions of the picture without the "
            "padding; save its image processor with pad_size=None"
        )
    if detects:
        link = SOFTMAX if no_object(config) else SIGMOID
        return Detector(full_name, Boxes(net).eval(), prepared, labels, link=link)
    classifier = describe(full_name, Logits(net), prepared, labels, maps=segments)
    return replace(classifier, multi_label=config.problem_type == MULTI_LABEL)


def load_embedder(name: str, checkpoint: Path | None = None) -> Embedder:
    """The network of a folder or a repository, for its embeddings: also a backbone, or a model of pictures and texts.

    Raises `ValueError` if there is no such network, or if its weights lack a part of it.
    """
    full_name = f"hf:{name}"
    with requiring("hf", full_name):
        import transformers
    with _loading(name):
        config = transformers.AutoConfig.from_pretrained(name)
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    net, _ = _network(name, transformers.AutoModel, config, checkpoint)
    return Embedder(full_name, Embeddings(net).eval(), preparation(full_name, processor), ())


def no_object(config: Any) -> int:
    """1 if the last of a detector's logits means "no object", as in DETR; 0 for its relatives that have none."""
    return int(config.model_type in ("detr", "yolos", "table-transformer"))


def _network(
    name: str, auto: Any, config: Any, checkpoint: Path | None, extra: int = 0
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """The network, made by one of the Auto classes, and the class names in the checkpoint. It has `extra` more logits."""
    if checkpoint is None:
        with _loading(name):  # weights of other shapes are found below
            net, info = auto.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True)
        _check_shapes(f"hf:{name}", config, info["mismatched_keys"])
        _check_weights(f"hf:{name}", config, info["missing_keys"], auto)
        # It makes a network in half precision of weights that are stored so, but pictures are in single precision.
        return net if getattr(net, "is_quantized", False) else net.float(), None

    def build(classes: int | None) -> nn.Module:
        if classes is not None:
            config.num_labels = classes - extra  # and the names become LABEL_0, LABEL_1, …
        made: nn.Module = auto.from_config(config)
        return made

    return loaded(build, checkpoint)


def preparation(name: str, processor: Any) -> TransformPreparation:
    """The preparation of pictures by an image processor. Raises `ValueError` if it makes no inputs `(C, H, W)` of pictures."""
    try:
        return prepared_by(Processing(processor), processor.to_json_string())
    except Exception as error:
        raise ValueError(
            f"the image processor {type(processor).__name__} of {name!r} fails on a picture ({error}); check its "
            "preprocessor_config.json, or give a sfumato.models.Classifier with a Preparation from a factory"
        ) from error


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Explains the errors of files that transformers cannot find or read."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"transformers cannot load a network of pictures from {name!r}; expected a local folder or a repository "
            "within reach, with config.json, preprocessor_config.json and weights"
        ) from error


def _other_kind(name: str, config: Any) -> ValueError:
    """The error about a network that is no classifier, detector or segmentation."""
    import transformers

    kind = (config.architectures or [type(config).__name__.removesuffix("Config")])[0]
    takes = getattr(getattr(transformers, kind, None), "main_input_name", "pixel_values")
    return ValueError(
        f"{name!r} is {kind}, and neither a classifier of pictures, nor a detector or a semantic segmentation; give the "
        f"network in Python, net = transformers.{kind}.from_pretrained({name.partition(':')[2]!r}).eval(), and say what to "
        f"explain of its outputs: method(lambda inputs: net({takes}=inputs), inputs, sfumato.Output(lambda outputs: …))"
    )


def _check_shapes(name: str, config: Any, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Raise `ValueError` where weights have other shapes than the network of config.json: transformers draws them at random.

    `mismatched` are the names, the shapes in the file, and those of the network.
    """
    found = sorted((part, tuple(given), tuple(wanted)) for part, given, wanted in mismatched)
    if not found:
        return
    extra = no_object(config)
    heads = [(given, wanted) for _, given, wanted in found if given and given[1:] == wanted[1:]]
    counts = {given[0] - extra for given, wanted in heads if wanted[0] == config.num_labels + extra}
    if len(counts) == 1 and len(heads) == len(found):
        raise ValueError(
            f"{name!r} has the weights of {counts.pop()} classes, and {config.num_labels} names of classes, id2label in its "
            "config.json; write one name there for each class"
        )
    part, given, wanted = found[0]
    raise ValueError(
        f"{name!r} has weights that do not fit its config.json: {part} is {given}, not {wanted}; save both together, with "
        "net.save_pretrained(folder)"
    )


def _check_weights(name: str, config: Any, missing: Collection[str], auto: Any) -> None:
    """Raise `ValueError` if weights are missing: transformers draws them at random."""
    if missing:
        listed = ", ".join(sorted(missing)[:SHOWN])
        kind = f", a {' or '.join(config.architectures)}," if config.architectures else ""
        wanted = {"AutoModelForImageClassification": " of an image classifier", "AutoModel": " of an encoder"}
        raise ValueError(f"{name!r}{kind} has no weights for {listed}{wanted.get(auto.__name__, '')}; {EMBEDDING}")
