"""The default layer of every family of networks: the last one with places on which the outputs depend."""

import pytest
import timm
import torch
import transformers
from torch import nn

import sfumato
from sfumato import methods
from sfumato.models.anatomy import LAYER_METHODS, describe
from sfumato.models.classifier import Preparation
from sfumato.models.hf import Logits


class Sized(Preparation):
    """Inputs that need not be square."""

    @property
    def shape(self):
        return 3, *self.resize


def of_timm(name, **settings):
    return lambda: timm.create_model(name, num_classes=5, **settings)


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
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}


def of_transformers(family, head="ForImageClassification", **settings):
    def made():
        config = getattr(transformers, f"{family}Config")(num_labels=5, **settings)
        return Logits(getattr(transformers, f"{family}{head}")(config))

    return made


TOWERS = {"vision_config": VIT, "text_config": TEXT}
SMALL_SWIN = {"embed_dim": 24, "depths": (1, 1, 2, 1), "window_size": 2}
FAMILIES = {
    "ViT": (of_timm("vit_tiny_patch16_224", img_size=64, depth=2), (64, 64), "blocks.1.norm1"),
    "ViT, oblong": (of_timm("vit_tiny_patch16_224", img_size=(32, 64), depth=2), (32, 64), "blocks.1.norm1"),
    "ViT with registers": (
        of_timm("vit_tiny_patch16_224", img_size=64, depth=2, reg_tokens=4),
        (64, 64),
        "blocks.1.norm1",
    ),
    "ViT that pools attention": (
        of_timm("vit_tiny_patch16_224", img_size=64, depth=2, global_pool="map", class_token=False),
        (64, 64),
        "norm",
    ),
    "DeiT": (of_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=2), (64, 64), "blocks.1.norm1"),
    "EVA02": (of_timm("eva02_tiny_patch14_224", img_size=56, depth=2), (56, 56), "blocks.1"),
    "DINOv2": (of_timm("vit_small_patch14_dinov2", img_size=56, depth=2, embed_dim=48), (56, 56), "blocks.1.norm1"),
    "BEiT": (of_timm("beit_base_patch16_224", img_size=64, depth=2, embed_dim=48), (64, 64), "blocks.1"),
    "Mixer": (of_timm("mixer_s32_224", img_size=64), (64, 64), "norm"),
    "Swin": (of_timm("swin_tiny_patch4_window7_224", img_size=64, **SMALL_SWIN), (64, 64), "norm"),
    "Swin, oblong": (of_timm("swin_tiny_patch4_window7_224", img_size=(64, 96), **SMALL_SWIN), (64, 96), "norm"),
    "MaxViT": (of_timm("maxvit_rmlp_pico_rw_256", img_size=64), (64, 64), "norm"),
    "ConvNeXt": (of_timm("convnext_atto"), (64, 64), "norm_pre"),
    "ViT of transformers": (of_transformers("ViT", **VIT), (32, 32), "model.vit.layers.1.layernorm_before"),
    "DeiT of transformers": (of_transformers("DeiT", **VIT), (32, 32), "model.deit.layers.1.layernorm_before"),
    "DINOv2 of transformers": (of_transformers("Dinov2", **VIT), (32, 32), "model.dinov2.layernorm"),
    "BEiT of transformers": (of_transformers("Beit", **VIT), (32, 32), "model.beit.layers.1"),
    "Swin of transformers": (of_transformers("Swin", **SWIN), (32, 32), "model.swin.layernorm"),
    "ConvNeXt of transformers": (of_transformers("ConvNext", **STAGES), (64, 64), "model.convnext.encoder.stages.3"),
    "CLIP": (of_transformers("CLIP", **TOWERS), (32, 32), "model.vision_model.encoder.layers.1"),
    "SigLIP": (of_transformers("Siglip", **TOWERS), (32, 32), "model.vision_model.post_layernorm"),
    "SegFormer": (
        of_transformers("Segformer", num_attention_heads=[1, 1, 2, 2], **STAGES),
        (64, 64),
        "model.segformer.stages.3",
    ),
}
QUICK = {"GradCAM": {}, "LinearApproximation": {}, "ExtremalChannels": {"counts": (1, 3), "steps": 1}}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    make, size, layer = FAMILIES[request.param]
    torch.manual_seed(0)
    net = make().eval()
    for parameter in net.parameters():  # some begin with a head of zeros, on which nothing depends
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return describe(request.param, net, Sized(size=None, resize=size)), layer


def noise(classifier):
    return torch.randn(2, *classifier.preparation.shape, generator=torch.Generator().manual_seed(0))


def test_the_default_layer_is_the_last_with_an_effect(family):
    classifier, layer = family
    assert classifier.layer == layer
    assert classifier.layers == dict.fromkeys(LAYER_METHODS, layer)


@pytest.mark.parametrize("name", QUICK)
def test_methods_run_with_no_layer_named(family, name):
    """Warnings are errors, so that the layer has an effect for each input."""
    classifier, layer = family
    method = classifier.placed(getattr(methods, name)(**QUICK[name]))
    assert method.layer == layer
    inputs = noise(classifier)
    result = method(classifier.net, inputs, [1, 3])
    assert result.map.shape == (2, 1, *inputs.shape[2:])
    assert result.map.isfinite().all()
    if name == "LinearApproximation":  # Grad-CAM's is cut off at 0, and may vanish everywhere
        assert (result.map.flatten(1).std(1) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LayerCAM", "ScoreCAM", "ExcitationBackprop", "ContrastiveExcitationBackprop"])
def test_other_methods_run_or_say_what_does(family, name):
    classifier, _ = family
    method, refusal = classifier.placed(getattr(methods, name)()), ""
    try:
        result = method(classifier.net, noise(classifier), [1, 3])
    except ValueError as error:
        refusal = str(error)
    if "Excitation" in name and refusal:  # it has no rule for attention
        assert "use another method, such as GradCAM" in refusal
    else:
        assert not refusal
        assert result.map.isfinite().all()


# --- the network alone ------------------------------------------------------------------------------------------------

LOOKING_INSIDE = [name for name in methods.__all__ if getattr(methods, name).needs_layer is True]
SHAPES = {"clip": (3, 4, 16, 16), "volume": (1, 12, 12, 12), "sound": (1, 200)}


def convolutional(channels, *space):
    torch.manual_seed(0)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(space) - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(space) - 1]
    places = [convolution(channels, 12, 3, padding=1), nn.ReLU(), convolution(12, 12, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*places, pool(1), nn.Flatten(), nn.Linear(12, 5)).eval()


@pytest.mark.parametrize("name", LOOKING_INSIDE)
def test_a_method_that_looks_inside_finds_its_layer(family, name):
    """Called with the network itself, it does what it does with the classifier, and says where."""
    classifier, layer = family
    inputs = noise(classifier)
    method = getattr(methods, name)(**QUICK.get(name, {}))
    outcomes = []
    for model in (classifier, classifier.net):
        try:
            result = method(model, inputs, [1, 3])
            assert result.layer == layer
            outcomes.append(result.map)
        except ValueError as error:
            outcomes.append(str(error))
    if isinstance(outcomes[0], str):
        assert outcomes[0] == outcomes[1]
    else:
        torch.testing.assert_close(*outcomes)


def test_those_that_look_inside_are_known():
    assert set(LAYER_METHODS) <= set(LOOKING_INSIDE)
    assert {"ScoreCAM", "LayerCAM"} <= set(LOOKING_INSIDE)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", LOOKING_INSIDE)
def test_of_clips_volumes_and_sounds_too(name, shape):
    net, inputs = convolutional(*shape), torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    result = getattr(methods, name)(**QUICK.get(name, {}))(net, inputs, [1, 3])
    assert result.layer == "3"
    assert result.map.shape == (2, 1, *shape[1:])


class Embedded(nn.Module):
    """Returns all tokens beside the embedding, which is the class token's, as encoders of transformers do."""

    def __init__(self):
        super().__init__()
        self.net = FAMILIES["ViT"][0]().eval()

    def forward(self, pictures):
        tokens = self.net.forward_features(pictures)
        return {"last_hidden_state": tokens, "pooler_output": tokens[:, 0]}


def test_the_layer_is_one_on_which_the_score_depends():
    """Other parts of the outputs depend on later layers."""
    torch.manual_seed(0)
    net, inputs = Embedded().eval(), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    reference = torch.randn(192, generator=torch.Generator().manual_seed(1))
    result = methods.LinearApproximation()(net, inputs, sfumato.Similarity(reference))
    assert result.layer == "net.blocks.1.norm1"
    assert result.map.any()


class Segments(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Upsample(scale_factor=2))

    def forward(self, pictures):
        return self.head(self.trunk(pictures))


def test_of_a_segmenter_it_is_below_the_weights_that_make_the_maps():
    """Its outputs have places, too, but there is nothing above them to look through."""
    inputs = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(16, 16)
    mask[4:12, 4:12] = 1
    result = methods.LinearApproximation()(Segments().eval(), inputs, sfumato.Region(1, mask))
    assert result.layer == "head.1"
    assert result.map.any()


def test_the_layer_does_not_depend_on_the_inputs():
    """A dead picture has no effect at the last layer, but a query's layer may not depend on its batch."""
    net = convolutional(3, 16, 16)
    inputs = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs[0] = 0
    method = methods.LinearApproximation()
    together = method(net, inputs, 1)
    assert together.layer == method(net, inputs[1:], 1).layer == method(net, inputs[:1], 1).layer == "3"


def test_the_smallest_set_of_channels_is_looked_for_at_the_default_layer():
    net, inputs = convolutional(3, 16, 16), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = sfumato.smallest(methods.ExtremalChannels(steps=2), net, inputs, sfumato.Probability(1), keep=0.5)
    assert found.attribution.layer == "3"
    assert 1 <= found.count <= 12


def test_the_input_is_a_layer_of_that_name():
    net, inputs = convolutional(3, 16, 16), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = methods.LinearApproximation(layer="input")(net, inputs, 1)
    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(result.map, (inputs * gradient).sum(1, keepdim=True))
    assert methods.ExtremalChannels(layer="input", counts=(1,), steps=1)(net, inputs, 1).masks.shape[2] == 3
    assert methods.ScoreCAM(layer="input")(net, inputs, 1).map.shape == (1, 1, 16, 16)


def test_a_part_called_input_is_that_part():
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("input", nn.Conv2d(3, 4, 3))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    result = methods.LinearApproximation(layer="input", resize=False)(net.eval(), torch.randn(1, 3, 8, 8), 1)
    assert result.map.shape == (1, 1, 6, 6)


@pytest.mark.parametrize("name", LOOKING_INSIDE)
def test_where_there_is_no_layer_it_says_what_to_do(name):
    method = getattr(methods, name)()
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    for model in (net, net.forward):
        with pytest.raises(ValueError, match=rf"^{name} needs layer.*such as RISE\(\)"):
            method(model, torch.randn(1, 3, 4, 4), 1)


def test_a_method_of_captum_finds_its_layer():
    pytest.importorskip("captum", reason="captum is not installed")
    net, inputs = convolutional(3, 16, 16), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = methods.Captum("LayerGradCam")(net, inputs, 1)
    assert result.layer == "3"
    torch.testing.assert_close(result.map, methods.Captum("LayerGradCam", layer="3")(net, inputs, 1).map)


def test_a_batch_axis_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"add the batch axis: inputs\[None\]"):
        methods.GradCAM()(convolutional(3, 16, 16), torch.randn(3, 16, 16), 1)


def test_after_the_last_attention_grad_cam_says_what_to_name():
    torch.manual_seed(0)
    net = FAMILIES["ViT"][0]().eval()
    with pytest.warns(UserWarning, match="name an earlier layer, e.g. one before the last attention"):
        sfumato.GradCAM(layer="blocks.1")(net, torch.randn(1, 3, 64, 64), 1)


def test_a_detector_has_a_default_layer():
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], out_features=["stage2"]
        ),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=5,
    )
    torch.manual_seed(0)
    net = transformers.DetrForObjectDetection(config).eval()
    layer = sfumato.models.anatomy.last_spatial(net, Preparation(size=64, resize=None))
    assert layer
    best = sfumato.Output(lambda outputs: outputs.logits[..., 1].amax(1))
    result = sfumato.GradCAM(layer=layer)(net, torch.randn(1, 3, 64, 64), best)
    assert result.map.shape == (1, 1, 64, 64)


# --- outputs as transformers returns them -----------------------------------------------------------------------------


@pytest.fixture
def bare():
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=5, **VIT)).eval()


@pytest.mark.parametrize(
    "method",
    [
        methods.Gradient(),
        methods.RISE(samples=8, cells=3),
        methods.ExtremalPerturbation(steps=1),
        methods.Captum("IntegratedGradients", arguments={"n_steps": 2}),
        methods.Captum("InputXGradient"),
    ],
    ids=repr,
)
def test_logits_are_found_in_objects(bare, method):
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = method(bare, inputs, [1, 3])
    torch.testing.assert_close(found.map, method(Logits(bare), inputs, [1, 3]).map)


def test_logits_of_boxes_are_not_classes():
    outputs = transformers.models.detr.modeling_detr.DetrObjectDetectionOutput(logits=torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="DetrObjectDetectionOutput with keys 'logits', not a tensor of class scores"):
        sfumato.Logit(1)(outputs, torch.arange(2))


def test_captum_leaves_what_transformers_records(bare):
    """transformers marks a model on which it has put its own hooks; the mark is no dict of hooks."""
    bare.config.output_hidden_states = True
    inputs = torch.randn(1, 3, 32, 32)
    methods.Captum("Saliency")(bare, inputs, 1)
    assert len(bare(inputs).hidden_states) == 3
    assert len(bare(inputs, output_hidden_states=True).hidden_states) == 3


def test_captum_says_where_a_layer_has_no_tensor():
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=5)
    net = transformers.ResNetForImageClassification(config).eval()
    method = methods.Captum("LayerGradCam", layer="resnet.encoder")
    with pytest.raises(
        ValueError, match="'resnet.encoder' puts out a BaseModelOutputWithNoAttention, not a tensor; name"
    ):
        method(net, torch.randn(1, 3, 32, 32), 1)
    inside = methods.Captum("LayerGradCam", layer="resnet.encoder.stages.1")
    assert inside(net, torch.randn(1, 3, 32, 32), 1).map.shape == (1, 1, 32, 32)


# --- names under wrappers ---------------------------------------------------------------------------------------------


def test_a_layers_name_under_wrappers_is_offered():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": net})})
    with pytest.raises(ValueError, match="no layer '0'. Did you mean 'module._orig_mod.0'"):
        sfumato.layers.capture.find_layer(wrapped, "0")
    with pytest.raises(ValueError, match="no layer 'module.2'. Did you mean '2'"):
        sfumato.layers.capture.find_layer(net, "module.2")


def test_contrastive_excitation_looks_below_the_last_weights():
    """As in SqueezeNet, whose last layer with weights makes the maps of the classes: above it nothing can be contrasted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    inputs = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        ValueError, match="does not lie below the place where the class and its dual are subtracted, .* name an"
    ):
        sfumato.ContrastiveExcitationBackprop(layer="3")(net, inputs, 1)
    result = sfumato.ContrastiveExcitationBackprop()(net, inputs, 1)
    assert result.layer == "1"
    assert torch.equal(result.map, sfumato.ContrastiveExcitationBackprop(layer="1")(net, inputs, 1).map)
    assert result.map.sum() > 0
    assert sfumato.ExcitationBackprop()(net, inputs, 1).layer == "3"


def test_a_classifier_whose_last_weights_make_maps_has_a_layer_for_contrastive_excitation(tmp_path):
    vision = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    net = vision.get_model("squeezenet1_1", num_classes=3)
    nn.init.ones_(net.classifier[1].bias)  # or a class may be below 0 everywhere, where a ReLU hides it
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    classifier = sfumato.models.load("torchvision:squeezenet1_1", tmp_path / "mine.pth")
    assert classifier.layers["GradCAM"] == "classifier.2"
    layer = classifier.layers["ContrastiveExcitationBackprop"]
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = sfumato.ContrastiveExcitationBackprop()(classifier, inputs, 1)
    assert result.layer == layer
    features = sfumato.ContrastiveExcitationBackprop(layer="features")(classifier.net, inputs, 1)
    torch.testing.assert_close(result.map, features.map)
