"""The dispatch mode that watches each operation of a pass, and labels its outputs by the rule for the operation's name.

To add an operation, add a line to `RULES`. Without a rule, the axes of the output are open.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.layers.axes import moves, sums
from sfumato.layers.axes.labels import Label, length_of, open_label
from sfumato.layers.axes.store import LabelStore, Rule

RULES: dict[str, Rule] = {
    **dict.fromkeys(("convolution", "mkldnn_convolution", "_convolution", "convolution_overrideable"), sums.convolve),
    **dict.fromkeys(
        (
            *("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d"),
            *("adaptive_max_pool3d", "fractional_max_pool2d", "mkldnn_max_pool2d", "mkldnn_adaptive_avg_pool2d"),
            *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d"),
            *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d"),
            *("upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        ),
        sums.slide,
    ),
    **dict.fromkeys(("permute",), moves.permute),
    **dict.fromkeys(("transpose", "t", "numpy_T", "transpose_", "t_"), moves.transpose),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), moves.view),
    **dict.fromkeys(("unsqueeze", "unsqueeze_"), moves.unsqueeze),
    **dict.fromkeys(("squeeze", "squeeze_"), moves.squeeze),
    **dict.fromkeys(("expand", "repeat"), moves.expand),
    **dict.fromkeys(("select", "unbind"), moves.select),
    "slice": moves.narrow,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), moves.split),
    **dict.fromkeys(("cat", "concat"), moves.cat),
    "stack": moves.stack,
    **dict.fromkeys(
        (
            *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
            *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
        ),
        moves.pad,
    ),
    "roll": moves.roll,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "_addmm_activation"), sums.product),
    **dict.fromkeys(("linear", "mkldnn_linear", "_mkl_linear"), sums.linear),
    **dict.fromkeys(
        (
            *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"),
            *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
            *("_scaled_dot_product_attention_math", "_scaled_dot_product_fused_attention_overrideable"),
        ),
        sums.attention,
    ),
    **dict.fromkeys(
        ("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "mkldnn_rnn_layer"), sums.encode
    ),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), sums.pixel_shuffle),
    "im2col": sums.im2col,
    "col2im": sums.col2im,
    "index": sums.index,
    **dict.fromkeys(
        ("gather", "flip", "topk", "sort", "kthvalue", "cummax", "cummin", "_fft_r2c", "_fft_c2c", "_fft_c2r"),
        sums.along,
    ),
    "index_select": sums.index_select,
    "embedding": sums.embedding,
    "copy_": moves.copy,
}

ALIKE = {
    *("alias", "detach", "clone", "_to_copy", "contiguous", "lift_fresh", "lift", "_conj", "resolve_conj", "view_as"),
    *("native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_no_training", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm"),
    *("_fused_rms_norm", "_batch_norm_with_update", "_softmax", "_log_softmax", "_safe_softmax", "native_dropout"),
    *("cumsum", "cumprod", "logcumsumexp", "channel_shuffle", "native_channel_shuffle", "bernoulli", "tril", "triu"),
    *("rrelu_with_noise", "_prelu_kernel", "prelu", "zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"),
    *("full_like", "_fused_dropout", "quantize_per_tensor", "dequantize", "_local_scalar_dense", "celu", "renorm"),
    *(
        "log_sigmoid_forward",
        "hardswish",
        "hardsigmoid",
        "silu",
        "mish",
        "relu6",
        "elu",
        "softplus",
        "softshrink",
        "hardshrink",
        "masked_fill",
        "masked_scatter",
        "gelu",
        "hardtanh",
        "leaky_relu",
        "mkldnn_reorder",
    ),
}
"""Operations whose first output has the same axes as their first operand."""

REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "prod", "var", "var_mean", "std", "std_mean", "median", "nanmedian"),
    *("linalg_vector_norm", "norm", "logsumexp", "any", "all", "argmax", "argmin", "count_nonzero", "nansum", "mode"),
}


class Watch(LabelStore, TorchDispatchMode):
    """Labels the axes of a network's values while it runs."""

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        arguments = _by_name(function, args, kwargs)
        outputs = result if isinstance(result, tuple | list) else [result]
        operands = list(_tensors(arguments))
        learnt = bool(operands) and not any(map(self.knows, operands))
        for index, output in enumerate(outputs):
            if not isinstance(output, Tensor):
                continue
            labels = None
            if not learnt:
                try:
                    labels = self._apply_rule(function, arguments, output, index)
                except Exception:  # noqa: BLE001  # the operation is used in a way that its rule does not know
                    labels = None
            if labels is None or [length_of(label) for label in labels] != list(output.shape):
                labels = [open_label(size, learnt) for size in output.shape]
            self._labels[output] = tuple(labels)
        return result

    def _apply_rule(
        self, function: Any, arguments: dict[str, Any], output: Tensor, index: int
    ) -> Sequence[Label] | None:
        """The labels of an output of an operation; None if the operation has no rule."""
        name = function._schema.name.removeprefix("aten::")
        rule = RULES.get(name)
        if rule is not None:
            return rule(self, arguments, output, index)
        tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
        if torch.Tag.pointwise in function.tags or (name.endswith("_") and tensors and output is tensors[0]):
            return self.broadcast(tensors, output)
        if name in ALIKE and index == 0:
            return self.labels(tensors[0])
        if "dim" in arguments and tensors and name in REDUCTIONS:
            return self.reduced(tensors[0], arguments["dim"], bool(arguments.get("keepdim", False)), output)
        return None


def _by_name(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    positional = {parameter.name: value for parameter, value in zip(function._schema.arguments, args, strict=False)}
    return {**positional, **kwargs}


def _tensors(arguments: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in arguments.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))
