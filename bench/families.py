"""Small networks of many families, with random weights, and a question for each: what `bench/compatibility.py` tries.

Each is made as its library makes it, with fewer and narrower layers where the library allows. Weights that are
too small for a narrow network to see anything are drawn anew: see `awake`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sfumato
from sfumato import BlackBox, Box, Region, Similarity, Tokens
from sfumato.models import Classifier, Preparation
from sfumato.models.anatomy import describe

CLASSES = 5


@dataclass(frozen=True, eq=False)
class Question:
    """A model, inputs, and targets: the second is asked where the map for the first is empty by its equation."""

    model: Any
    inputs: Tensor
    targets: Sequence[Any] = (1, 3, 0)
    net: nn.Module | None = None
    """What must be left as it was, if the model is a function around it."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further settings of methods, by their names: what a user of such a model would write."""

    @property
    def watched(self) -> nn.Module | None:
        """The network that must be left as it was."""
        net = self.net or (self.model.net if isinstance(self.model, Classifier) else self.model)
        return net if isinstance(net, nn.Module) else None


Maker = Callable[[], Question]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def awake(net: nn.Module) -> nn.Module:
    """The network in evaluation mode, with weights on which its outputs depend.

    Some libraries begin with a head of zeros, with scales of a millionth (LayerScale), or with weights so small that a narrow
    network hardly looks at its input.
    """
    for parameter in net.parameters():
        flat = parameter.detach().flatten()
        if parameter.ndim > 1:
            usual = (2 / parameter[0].numel()) ** 0.5  # He et al. 2015: through rectifiers nothing fades
            if flat.std() < 0.5 * usual:
                nn.init.normal_(parameter, std=usual)
        elif len(flat) > 1 and not flat.any():
            nn.init.normal_(parameter, std=0.02)
        elif len(flat) > 1 and (flat == flat[0]).all() and flat[0].abs() < 1e-3:
            nn.init.constant_(parameter, 0.5)
    return net.eval()


def classifier(make: Callable[[], nn.Module], side: int = 64, channels: int = 3) -> Maker:
    """A network of pictures whose outputs are logits, as `sfumato.models.load` describes it."""

    def made() -> Question:
        preparation = Preparation(size=side, resize=None, mean=(0.0,) * channels, std=(1.0,) * channels)
        return Question(describe("network", awake(make()), preparation), noise(1, channels, side, side))

    return made


def alone(make: Callable[[], nn.Module], *shape: int, targets: Sequence[Any] = (1, 3, 0)) -> Maker:
    """A network as it is, for inputs of a shape."""
    return lambda: Question(awake(make()), noise(1, *shape), targets)


# --- torchvision ------------------------------------------------------------------------------------------------------


def of_torchvision(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, **{"num_classes": CLASSES, **settings})

    return make


def vision(path: str, **settings: Any) -> Callable[[], nn.Module]:
    """A class of torchvision.models, e.g. "SwinTransformer", with settings of its own."""

    def make() -> nn.Module:
        from torchvision import models

        module, _, name = path.rpartition(".")
        return getattr(getattr(models, module) if module else models, name)(num_classes=CLASSES, **settings)

    return make


HEADS = {"aux_logits": False, "init_weights": False}
TORCHVISION: dict[str, Maker] = {
    "AlexNet": classifier(of_torchvision("alexnet"), 96),
    "VGG": classifier(of_torchvision("vgg11_bn")),
    "ResNet": classifier(of_torchvision("resnet18")),
    "ResNet, the network alone": alone(of_torchvision("resnet18"), 3, 64, 64),
    "ResNeXt": classifier(of_torchvision("resnext50_32x4d")),
    "DenseNet": classifier(of_torchvision("densenet121")),
    "GoogLeNet": classifier(of_torchvision("googlenet", **HEADS)),
    "Inception v3": classifier(of_torchvision("inception_v3", **HEADS), 139),
    "SqueezeNet": classifier(of_torchvision("squeezenet1_1")),
    "MobileNet v2": classifier(of_torchvision("mobilenet_v2")),
    "MobileNet v3": classifier(of_torchvision("mobilenet_v3_small")),
    "EfficientNet": classifier(of_torchvision("efficientnet_b0")),
    "RegNet": classifier(of_torchvision("regnet_y_400mf")),
    "ShuffleNet v2": classifier(of_torchvision("shufflenet_v2_x0_5")),
    "MNASNet": classifier(of_torchvision("mnasnet0_5")),
    "ConvNeXt": classifier(of_torchvision("convnext_tiny")),
    "ViT": classifier(
        vision("VisionTransformer", image_size=64, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    ),
    "Swin": classifier(
        vision("SwinTransformer", patch_size=[4, 4], embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=[4, 4])
    ),
    "Swin v2": classifier(of_torchvision("swin_v2_t")),
    "MaxViT": classifier(
        vision(
            "MaxVit",
            input_size=(64, 64),
            stem_channels=8,
            partition_size=4,
            block_channels=[8, 16],
            block_layers=[1, 1],
            head_dim=4,
            stochastic_depth_prob=0.0,
        )
    ),
}


def segmenter(name: str, **settings: Any) -> Maker:
    """The outputs are a dict with the maps `out`, of which the network is made to return those alone."""

    def made() -> Question:
        from torchvision import models

        net = models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, **settings)
        return Question(awake(_Part(net, "out")), noise(1, 3, 64, 64), [in_the_middle(place) for place in (1, 3, 0)])

    return made


class _Part(nn.Module):
    """A network of which one part of the outputs is read, as users of it write."""

    def __init__(self, net: nn.Module, part: str, takes: str = "") -> None:
        super().__init__()
        self.net, self.part, self.takes = net, part, takes

    def forward(self, pictures: Tensor) -> Any:
        outputs = self.net(**{self.takes: pictures}) if self.takes else self.net(pictures)
        return outputs[self.part]


def in_the_middle(index: int, shape: Sequence[int] = (64, 64)) -> Region:
    """A class in the middle quarter of the input, of any number of axes."""
    inside = torch.zeros(*shape, dtype=torch.bool)
    inside[tuple(slice(length // 4, 3 * length // 4) for length in shape)] = True
    return Region(index, inside)


def literal_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression, for a torchvision whose compiled operators do not fit the installed torch."""
    boxes, order, kept = boxes.detach(), scores.argsort(descending=True), []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(int(first))
        order = order[sfumato.scores.detections.overlaps(boxes[order], boxes[first]) <= iou_threshold]
    return torch.tensor(kept, dtype=torch.long)


def detector(name: str, side: int = 64, **settings: Any) -> Maker:
    """The question is about the box that the detector is surest of."""

    def made() -> Question:
        from torchvision import extension, models
        from torchvision.ops import boxes

        if not extension._has_ops():
            boxes.nms = literal_nms
        net = models.get_model(
            f"detection.{name}" if "." in name else name,
            weights=None,
            weights_backbone=None,
            num_classes=CLASSES,
            **settings,
        )
        net, inputs = awake(net), noise(1, 3, side, side).sigmoid()
        with torch.no_grad():
            (found,) = net(inputs)
        sizes = found["boxes"][:, 2:] - found["boxes"][:, :2]
        rows = (sizes > 1).all(1).nonzero().flatten()[:3].tolist()
        targets = [Box(found["boxes"][row].tolist(), int(found["labels"][row])) for row in rows]
        return Question(net, inputs, targets)

    return made


MVIT = {
    "spatial_size": (32, 32),
    "temporal_size": 4,
    "residual_pool": False,
    "residual_with_cls_embed": False,
    "rel_pos_embed": False,
    "proj_after_attn": False,
}
SMALL_DETECTOR = {"detections_per_img": 10, "topk_candidates": 40}


def mvit() -> nn.Module:
    from torchvision.models.video import mvit as module

    blocks = [
        module.MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        module.MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return module.MViT(block_setting=blocks, num_classes=CLASSES, **MVIT)


TORCHVISION_MORE: dict[str, Maker] = {
    "FCN, segmentation": segmenter("fcn_resnet50"),
    "DeepLab v3, segmentation": segmenter("deeplabv3_mobilenet_v3_large"),
    "LR-ASPP, segmentation": segmenter("lraspp_mobilenet_v3_large"),
    "SSDlite, detection": detector("ssdlite320_mobilenet_v3_large", side=96, score_thresh=0.0, **SMALL_DETECTOR),
    "RetinaNet, detection": detector(
        "retinanet_resnet50_fpn", min_size=64, max_size=64, score_thresh=0.0, **SMALL_DETECTOR
    ),
    "FCOS, detection": detector("fcos_resnet50_fpn", min_size=64, max_size=64, score_thresh=0.0, **SMALL_DETECTOR),
    "ResNet 3-d, clips": alone(of_torchvision("r3d_18"), 3, 4, 16, 16),
    "R(2+1)D, clips": alone(of_torchvision("r2plus1d_18"), 3, 4, 16, 16),
    "Swin 3-d, clips": alone(
        vision(
            "video.SwinTransformer3d",
            patch_size=[2, 4, 4],
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=[2, 4, 4],
        ),
        3,
        4,
        32,
        32,
    ),
    "MViT, clips": alone(mvit, 3, 4, 32, 32),
}


# --- timm -------------------------------------------------------------------------------------------------------------


def of_timm(name: str, side: int = 64, **settings: Any) -> Maker:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **settings)

    return classifier(make, side)


SIZED = {"img_size": 64}
TIMM: dict[str, Maker] = {
    "ViT": of_timm("vit_tiny_patch16_224", depth=2, **SIZED),
    "ViT with registers": of_timm("vit_tiny_patch16_224", depth=2, reg_tokens=4, **SIZED),
    "SigLIP (pools by attention)": of_timm("vit_base_patch16_siglip_224", depth=2, embed_dim=48, num_heads=4, **SIZED),
    "CLIP, fine-tuned": of_timm("vit_base_patch16_clip_224", depth=2, embed_dim=48, num_heads=4, **SIZED),
    "DeiT, distilled": of_timm("deit_tiny_distilled_patch16_224", depth=2, **SIZED),
    "DINOv2": of_timm("vit_small_patch14_dinov2", 56, img_size=56, depth=2, embed_dim=48),
    "EVA02": of_timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    "BEiT": of_timm("beit_base_patch16_224", depth=2, embed_dim=48, **SIZED),
    "CaiT": of_timm("cait_xxs24_224", depth=2, **SIZED),
    "XCiT": of_timm("xcit_nano_12_p16_224", depth=2, **SIZED),
    "Swin": of_timm("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 2, 1), window_size=2, **SIZED),
    "Swin v2": of_timm("swinv2_tiny_window8_256", embed_dim=24, depths=(1, 1, 2, 1), window_size=2, **SIZED),
    "MaxViT": of_timm("maxvit_rmlp_pico_rw_256", **SIZED),
    "CoAtNet": of_timm("coatnet_nano_rw_224", **SIZED),
    "Hiera": of_timm("hiera_tiny_224", **SIZED),
    "PVT v2": of_timm("pvt_v2_b0"),
    "LeViT": of_timm("levit_128s", 224),
    "DaViT": of_timm("davit_tiny", embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1)),
    "TinyViT": of_timm("tiny_vit_5m_224", 224),
    "Mixer": of_timm("mixer_s32_224", **SIZED),
    "ResMLP": of_timm("resmlp_12_224", **SIZED),
    "gMLP": of_timm("gmlp_s16_224", **SIZED),
    "ConvNeXt": of_timm("convnext_atto"),
    "ConvNeXt v2": of_timm("convnextv2_atto"),
    "InceptionNeXt": of_timm("inception_next_atto"),
    "FocalNet": of_timm("focalnet_tiny_srf"),
    "PoolFormer": of_timm("poolformer_s12"),
    "CAFormer": of_timm("caformer_s18"),
    "MobileViT": of_timm("mobilevit_xxs"),
    "MobileViT v2": of_timm("mobilevitv2_050"),
    "EfficientFormer": of_timm("efficientformer_l1", 224),
    "EfficientViT": of_timm("efficientvit_b0"),
    "EdgeNeXt": of_timm("edgenext_xx_small"),
    "FastViT": of_timm("fastvit_t8"),
    "RepViT": of_timm("repvit_m0_9"),
    "GhostNet": of_timm("ghostnet_050"),
    "MambaOut": of_timm("mambaout_femto"),
}


# --- transformers -----------------------------------------------------------------------------------------------------

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "intermediate_size": 32,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
TOWERS = {"vision_config": VIT, "text_config": TEXT}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "out_features": ["stage2"]}
DETR = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 5,
}


def of_transformers(family: str, head: str = "ForImageClassification", **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{family}Config")(**{"num_labels": CLASSES, **settings})
        return getattr(transformers, f"{family}{head}")(config)

    return make


def of_pictures(family: str, side: int = 32, **settings: Any) -> Maker:
    """A classifier of transformers, in the wrapper of `sfumato.models.load("hf:…")`."""

    def make() -> nn.Module:
        from sfumato.models.hf import Logits

        return Logits(of_transformers(family, **settings)())

    return classifier(make, side)


def finder(family: str, side: int, **settings: Any) -> Maker:
    """A detector of transformers; the question is about boxes that it finds, as fractions of the picture."""

    def made() -> Question:
        net, inputs = awake(of_transformers(family, "ForObjectDetection", **settings)()), noise(1, 3, side, side)
        with torch.no_grad():
            detections = sfumato.DetrDetections()(net(inputs))[0]
        targets = [Box(detections.boxes[row].tolist(), int(detections.classes[row].argmax())) for row in range(3)]
        return Question(net, inputs, targets)

    return made


def detr() -> Question:
    import transformers

    return finder("Detr", 64, **DETR, backbone_config=transformers.ResNetConfig(**BACKBONE))()


class _Pictures(nn.Module):
    """The embeddings of pictures of a model of pictures and texts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pictures: Tensor) -> Any:
        return self.net.get_image_features(pixel_values=pictures)  # type: ignore[operator]  # such models have it


def with_texts(family: str) -> Maker:
    """The similarity of a picture to a text."""

    def made() -> Question:
        net = awake(of_transformers(family, "Model", **TOWERS)())
        texts = torch.randint(2, 20, (3, 6), generator=torch.Generator().manual_seed(0))
        texts[:, -1] = 1  # the end of a text, which is read
        with torch.no_grad():
            embeddings = sfumato.scores.similarity.embedding(net.get_text_features(input_ids=texts), "", len(texts))
        return Question(_Pictures(net).eval(), noise(1, 3, 32, 32), [Similarity(row) for row in embeddings])

    return made


def embedder() -> Question:
    """The similarity of a picture to another, as DINOv2 sees them."""
    net = awake(of_transformers("Dinov2", "Model", **VIT)())
    others = torch.randn(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return Question(net, noise(1, 3, 32, 32), [Similarity.to(net, other) for other in others])


def answerer() -> Question:
    """The log-probability of an answer of two tokens, after a prompt with a picture."""
    text = {**TEXT, "vocab_size": 30, "num_key_value_heads": 2, "model_type": "llama"}
    vision_config = {**VIT, "model_type": "clip_vision_model"}
    made = of_transformers(
        "Llava",
        "ForConditionalGeneration",
        vision_config=vision_config,
        text_config=text,
        image_token_index=29,
        image_seq_length=16,
    )
    net = awake(made())
    answers = ([5, 9], [7, 3], [11, 12])

    class Asked(nn.Module):
        def __init__(self, answer: Sequence[int]) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("ids", torch.tensor([[0, *[29] * 16, 4, *answer]]))

        def forward(self, pictures: Tensor) -> Any:
            return self.net(pixel_values=pictures, input_ids=self.ids.expand(len(pictures), -1)).logits

    return Question(Asked(answers[0]).eval(), noise(1, 3, 32, 32), [Tokens(answer) for answer in answers])


def segformer() -> Question:
    made = of_transformers(
        "Segformer", "ForSemanticSegmentation", num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, **STAGES
    )
    net = _Part(awake(made()), "logits", "pixel_values").eval()
    return Question(net, noise(1, 3, 64, 64), [in_the_middle(place) for place in (1, 3, 0)])


class _Frames(nn.Module):
    """A network that takes clips as (N, frames, C, H, W), of clips (N, C, frames, H, W)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: Tensor) -> Any:
        return self.net(pixel_values=clips.transpose(1, 2)).logits


class _Waves(nn.Module):
    """A network that takes sounds as (N, samples), of sounds (N, 1, samples)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, sounds: Tensor) -> Any:
        return self.net(input_values=sounds[:, 0]).logits


VIDEO = {**VIT, "num_frames": 4, "tubelet_size": 2}
WAVE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}
TRANSFORMERS: dict[str, Maker] = {
    "ViT": of_pictures("ViT", **VIT),
    "DeiT": of_pictures("DeiT", **VIT),
    "DINOv2": of_pictures("Dinov2", **VIT),
    "BEiT": of_pictures("Beit", **VIT),
    "Swin": of_pictures("Swin", **SWIN),
    "ResNet": of_pictures("ResNet", 64, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "ConvNeXt": of_pictures("ConvNext", 64, **STAGES),
    "PoolFormer": of_pictures("PoolFormer", 64, **STAGES),
    "SegFormer": of_pictures("Segformer", 64, num_attention_heads=[1, 1, 2, 2], **STAGES),
    "MobileViT": of_pictures("MobileViT", 64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64]),
    "CLIP, classes": of_pictures("CLIP", **TOWERS),
    "SigLIP, classes": of_pictures("Siglip", **TOWERS),
    "SegFormer, segmentation": segformer,
    "DETR, detection": detr,
    "YOLOS, detection": finder(
        "Yolos", 32, **{**VIT, "image_size": [32, 32]}, num_detection_tokens=5, use_mid_position_embeddings=False
    ),
    "CLIP, picture and text": with_texts("CLIP"),
    "SigLIP, picture and text": with_texts("Siglip"),
    "DINOv2, pictures alike": embedder,
    "LLaVA, answers": answerer,
    "VideoMAE, clips": alone(
        lambda: _Frames(of_transformers("VideoMAE", "ForVideoClassification", **VIDEO)()), 3, 4, 32, 32
    ),
    "wav2vec 2, sounds": alone(
        lambda: _Waves(of_transformers("Wav2Vec2", "ForSequenceClassification", **WAVE)()), 1, 2000
    ),
}


# --- other networks, and models without gradients ---------------------------------------------------------------------


class Volumes(nn.Module):
    """Residual units of 3-d convolutions with instance normalisation and PReLU, as MONAI builds its networks."""

    def __init__(self, classes: int = CLASSES, segments: bool = False) -> None:
        super().__init__()
        self.down = nn.Sequential(self.unit(1, 8, 2), self.unit(8, 16, 2))
        self.up = nn.ConvTranspose3d(16, 8, 4, stride=4) if segments else None
        self.head: nn.Module = nn.Conv3d(8, classes, 1) if segments else nn.Linear(16, classes)

    @staticmethod
    def unit(before: int, after: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv3d(before, after, 3, stride=stride, padding=1), nn.InstanceNorm3d(after), nn.PReLU()
        )

    def forward(self, volumes: Tensor) -> Tensor:
        values = self.down(volumes)
        return self.head(values.mean((2, 3, 4)) if self.up is None else self.up(values))


def of_sounds() -> nn.Module:
    """A stack of convolutions over samples, with one logit a class."""
    return nn.Sequential(
        nn.Sequential(nn.Conv1d(1, 8, 32, stride=8), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Sequential(nn.Conv1d(8, 16, 5, stride=2), nn.BatchNorm1d(16), nn.ReLU()),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(1800, CLASSES)
    )


def function() -> Question:
    """A plain function of tensors that can be differentiated."""
    net = small().eval()
    return Question(lambda pictures: net(pictures) / 2, noise(1, 3, 64, 64), net=net)


def black_box() -> Question:
    """A function of arrays, as a served model is, with the ascent that needs no gradients."""
    net = small().eval()

    def answer(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(pictures)).numpy()

    ascent = {"ascent": sfumato.EvolutionAscent(pairs=2)}
    settings = {"ExtremalPerturbation": ascent}
    return Question(BlackBox(answer, takes="numpy"), noise(1, 3, 64, 64), net=net, settings=settings)


OTHERS: dict[str, Maker] = {
    "3-d residual network, volumes": alone(Volumes, 1, 16, 16, 16),
    "3-d U-shaped network, volumes": alone(
        lambda: Volumes(segments=True),
        1,
        16,
        16,
        16,
        targets=[in_the_middle(place, (16, 16, 16)) for place in (1, 3, 0)],
    ),
    "1-d convolutional network, sounds": alone(of_sounds, 1, 2000),
    "a function": function,
    "a black box": black_box,
}

GROUPS: dict[str, dict[str, Maker]] = {
    "torchvision": {**TORCHVISION, **TORCHVISION_MORE},
    "timm": TIMM,
    "transformers": TRANSFORMERS,
    "others": OTHERS,
}
FAMILIES: dict[str, Maker] = {
    f"{library}: {name}": maker for library, makers in GROUPS.items() for name, maker in makers.items()
}
"""Every family, by the library and its name."""
