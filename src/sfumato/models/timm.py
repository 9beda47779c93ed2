"""The classifiers of timm, e.g. "timm:resnet18"."""

from pathlib import Path

from PIL import Image

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import load_weights_, requiring
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near

OFFERS = 'a model of that library: pip install "sfumato[timm]"'
"""The description of this source in `sfumato models`."""


def names() -> list[str]:
    """The names of the models; empty if timm is not installed."""
    try:
        import timm
    except ModuleNotFoundError:
        return []
    return list(timm.list_models())


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network with timm's weights, downloaded on first use, or with the weights of a checkpoint."""
    full_name = f"timm:{name}"
    with requiring("timm", full_name):
        import timm
        from timm.data import resolve_model_data_config
    if not timm.is_model(name.partition(".")[0]):  # "resnet18.a1_in1k" names the training after the dot
        raise ValueError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    net = timm.create_model(name, pretrained=checkpoint is None)
    if checkpoint is not None:
        load_weights_(net, checkpoint)
    config = resolve_model_data_config(net)
    size = config["input_size"][-1]
    preparation = Preparation(
        size=size,
        resize=max(size, round(size / config["crop_pct"])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resampling=Image.Resampling[config["interpolation"].upper()],
    )
    return describe(full_name, net, preparation)
