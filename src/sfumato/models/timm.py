"""The classifiers of timm, e.g. "timm:resnet18"."""

from functools import partial
from pathlib import Path
from typing import Any

from sfumato.data.labels import imagenet
from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import EMBEDDING, downloading, fit_, loaded, read, requiring
from sfumato.models.classifier import Classifier
from sfumato.models.embedder import Embedder
from sfumato.models.transforms import prepared_by
from sfumato.settings import near

OFFERS = 'a model of that library: pip install "sfumato[timm]"'
"""The description of this source in `sfumato models`."""

WELL_KNOWN = (
    "convnext_tiny", "deit_small_patch16_224", "efficientnet_b0", "mixer_b16_224", "mobilenetv3_large_100", "resnet101",
    "resnet152", "resnet18", "resnet34", "resnet50", "swin_tiny_patch4_window7_224", "vgg16", "vgg19",
    "vit_base_patch16_224", "vit_small_patch16_224", "vit_tiny_patch16_224",
)  # fmt: skip
"""Some of the models, for suggestions where timm is not installed."""


def names() -> list[str]:
    """The names of the models; some of them if timm is not installed, or its torchvision does not fit torch."""
    try:
        import timm
    except (ModuleNotFoundError, RuntimeError):
        return list(WELL_KNOWN)
    return list(timm.list_models())


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network with timm's weights, downloaded on first use, or with the weights of a checkpoint.

    A checkpoint uses the preparation of timm's weights. It may have another number of classes. Raises `ValueError` if there are
    no weights, or none of a classifier.
    """
    full_name = f"timm:{name}"
    with requiring("timm", full_name):
        import timm
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform
    if not timm.is_model(name.partition(".")[0]):  # "resnet18.a1_in1k" names the training after the dot
        raise ValueError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    labels: tuple[str, ...] | None = None
    if checkpoint is None:
        _check_weights(full_name, timm.get_pretrained_cfg(name))
        with downloading(f"the weights of {full_name!r}"):
            net = timm.create_model(name, pretrained=True)
    else:
        net, labels = loaded(partial(_with_classes, name), checkpoint)
        if labels is None and _is_embedding(net, timm.get_pretrained_cfg(name)):
            raise ValueError(
                f"the checkpoint {str(checkpoint)!r} of {full_name!r} is a tower, which gives {net.num_classes} numbers of an "
                f"embedding, and no classifier; {EMBEDDING}, or one that holds the names of its classes"
            )
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    return describe(full_name, net, prepared_by(transform), labels)


def load_embedder(name: str, checkpoint: Path | None = None) -> Embedder:
    """The network for its embeddings: a tower as it is, any other one without its classifier.

    Its weights are timm's, downloaded on first use, or those of a checkpoint. Raises `ValueError` if there are none.
    """
    full_name = f"timm:{name}"
    with requiring("timm", full_name):
        import timm
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    pretrained = timm.get_pretrained_cfg(name)
    if checkpoint is None:
        _check_has_weights(full_name, pretrained)
        with downloading(f"the weights of {full_name!r}"):
            net = timm.create_model(name, pretrained=True)
    else:
        weights = read(checkpoint).weights
        net = timm.create_model(name, num_classes=0)
        if not weights.keys() <= net.state_dict().keys():  # it has a classifier, or is a tower
            net, _ = loaded(partial(_with_classes, name), checkpoint)
        else:
            fit_(net, weights, checkpoint)
    if not _is_embedding(net, pretrained):
        net.reset_classifier(0)  # type: ignore[operator]  # networks of timm have it
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    return Embedder(full_name, net.eval(), prepared_by(transform), ())


def _with_classes(name: str, classes: int | None) -> Any:
    import timm

    return timm.create_model(name, num_classes=len(imagenet()) if classes is None else classes)


FEW = 10_000
"""Sets of classes whose names timm does not know are larger; embeddings of pictures are smaller."""


def is_tower(pretrained: Any) -> bool:
    """Whether timm's weights are those of the picture encoder of a model of pictures and texts, as CLIP's.

    It counts the numbers of the embedding as classes, for which timm knows no names.
    """
    from timm.data.imagenet_info import infer_imagenet_subset

    known = infer_imagenet_subset(pretrained.to_dict()) is not None
    return not known and 0 < pretrained.num_classes < FEW


def _is_embedding(net: Any, pretrained: Any) -> bool:
    """Whether the outputs of a network are as many numbers as the embedding of timm's tower of this name."""
    return pretrained is not None and is_tower(pretrained) and net.num_classes == pretrained.num_classes


def _check_has_weights(name: str, pretrained: Any) -> None:
    """Raise `ValueError` unless timm has weights: it would draw them at random."""
    if pretrained is None or not pretrained.has_weights:
        raise ValueError(
            f"{name!r} has no weights in timm; give a checkpoint with some, or another name of timm.list_pretrained()"
        )


def _check_weights(name: str, pretrained: Any) -> None:
    """Raise `ValueError` unless timm's weights are those of a classifier."""
    _check_has_weights(name, pretrained)
    if pretrained.num_classes == 0 or is_tower(pretrained):
        raise ValueError(f"{name!r} is a backbone without a classifier; {EMBEDDING}")
