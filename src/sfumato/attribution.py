"""The result of a method, and its file."""

import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import safetensors
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from safetensors.torch import save_file
from torch import Tensor

import sfumato
from sfumato.about import about_part, own_version, rebuild
from sfumato.files import written
from sfumato.perturbations import Perturbation, default_perturbation
from sfumato.settings import as_json
from sfumato.space.smoothing import gaussian_blur

FORMAT = "sfumato-attribution-1"

SHARED = {"shared": True}
"""The metadata of a field whose tensor belongs to all queries together, and has no axis for them."""

NOT_SAVED = {"saved": False}
"""The metadata of a field that is not written to files."""

OTHERS = (
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".svg", ".pdf"),
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".h5", ".parquet", ".json", ".csv", ".txt", ".html"),
)
"""Endings of files that other programs would take for what they are not."""


@dataclass(frozen=True, eq=False)
class TensorResult:
    """Base of results: frozen dataclasses of tensors, whose first axis is that of the queries except where a field is `SHARED`.

    Two results are equal only if they are the same object, and a result can be a key of a dict: tensors have no single truth
    value. To compare what they hold: `torch.equal(a.map, b.map)`.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            if isinstance(value := getattr(self, entry.name), Mapping):
                # Its own, so that a change in the part of one query is not one in another's.
                object.__setattr__(self, entry.name, deepcopy(dict(value)))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the name of their field; those of a result within this one as "attribution.map"."""
        return dict(_walk_tensors((entry.name, getattr(self, entry.name)) for entry in fields(self)))

    def to(self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """The result with all tensors on a device, or with floating-point ones of a type, or both.

        As with `torch.nn.Module.to`, counts and truth values keep their type: `result.to("cuda")`, `result.to(torch.float16)`.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, e.g. torch.float16; got {dtype}")
        return self._map(
            lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None),
            lambda result: result.to(device, dtype),
        )

    def cpu(self) -> Self:
        """The result with all tensors on the processor."""
        return self.to("cpu")

    def part(self, query: int | slice) -> Self:
        """What belongs to one query, still with a leading axis of length one, or to a slice of them; also `result[query]`.

        The tensors are views. Raises `IndexError` where there is no such query.
        """
        rows = self._rows(query)
        step = slice(rows.start, rows.stop if rows.stop >= 0 else None, rows.step)
        index = step if rows.step > 0 else list(rows)  # tensors have no negative steps
        return self._map(lambda tensor: tensor[index], lambda result: result.part(query), queries=True)

    def __getitem__(self, query: int | slice) -> Self:
        """See `part`."""
        return self.part(query)

    def __iter__(self) -> Iterator[Self]:
        """The part of each query."""
        return (self.part(query) for query in range(len(self)))

    def __len__(self) -> int:
        """The number of queries."""
        return len(getattr(self, fields(self)[0].name))

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: a view, as the tensors of a part are, would take the whole batch along."""
        return vars(self._map(_compact, lambda result: result))

    def _rows(self, query: Any) -> range:
        """The indices of the queries meant, growing or falling."""
        if isinstance(query, slice):
            return range(len(self))[query]
        try:
            place = operator.index(query)
        except TypeError:
            raise TypeError(
                f"a query is a whole number or a slice of them, as in result[0] or result[1:3]; got {query!r}. The tensors by "
                "name are in result.tensors()"
            ) from None
        if not -len(self) <= place < len(self):
            raise IndexError(f"query {place} is out of range: there are {len(self)}")
        place %= len(self)
        return range(place, place + 1)

    def _map(
        self,
        change: Callable[[Tensor], Tensor],
        within: Callable[["TensorResult"], "TensorResult"],
        queries: bool = False,
    ) -> Self:
        """The result with every tensor changed, or with `queries` those that have an axis of them; `within` changes results
        in it."""
        changed = {
            entry.name: _map_tensors(getattr(self, entry.name), change, within)
            for entry in fields(self)
            if not (queries and entry.metadata.get("shared"))
        }
        return replace(self, **changed)


MAP, MASKS = "; the map is result.map", "; the masks are result.masks"
FIGURE = "; for a figure, write sfumato.plots.figure(result, picture)"
ELSEWHERE = {
    **dict.fromkeys(("attribution", "attributions", "heatmap", "saliency", "saliency_map", "values"), MAP),
    **dict.fromkeys(("mask", "segmentation"), MASKS),
    **dict.fromkeys(("figure", "plot", "show", "visualize"), FIGURE),
}
"""What other libraries call parts of a result, and what an error says of them."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(TensorResult):
    r"""What a method found for `B` queries; for methods with masks, `V` masks of growing area for each.

    All tensors are on the inputs' device; scores are in the units of the explained score (logits by default). A result is
    taken apart by `result[0]`, `result[1:3]` and `for part in result`, and moved by `result.to("cuda")` and `result.cpu()`.
    """

    map: Float[Tensor, "B 1 *S"]
    """One saliency map a query."""
    masks: Float[Tensor, "B V 1 *M"] | Float[Tensor, "B V K *ones"] | None = None
    """`(B, V, 1, *S)`, float32 in [0, 1]; 1 keeps a place (in the deletion game: 1 marks what was removed). At a layer
    `(B, V, 1, *L)`, as large as its maps; of its channels `(B, V, K, 1, …)`."""
    areas: Float[Tensor, " V"] | None = field(default=None, metadata=SHARED)
    """The areas asked for, fractions of the input, or of the channels."""
    achieved: Float[Tensor, "B V"] | None = None
    """The masks' mean over the input."""
    scores: Float[Tensor, "B V"] | None = None
    r"""$\Phi(m \otimes x)$, what each mask keeps."""
    complements: Float[Tensor, "B V"] | None = None
    r"""$\Phi((1-m) \otimes x)$, what is left without it."""
    whole: Float[Tensor, " B"] | None = None
    r"""$\Phi(x)$, the score of the unperturbed input."""
    blank: Float[Tensor, " B"] | None = None
    """The score of the fully perturbed input."""
    agreement: Float[Tensor, "B V"] | None = None
    """How far the restarts of the search agree about each mask: the mean over pairs of their sets of the intersection
    over the union. 1 for equal sets; low where several sets do as well. `None` for a search without restarts, such
    as one at a layer."""
    alternatives: Bool[Tensor, "B V R 1 *M"] | None = None
    """The set that each restart found for itself, `(B, V, R, 1, *S)`: what else does about as well, if they differ. The masks
    began from the mean of their fields."""
    alternative_scores: Float[Tensor, "B V R"] | None = None
    """What each of these keeps, `(B, V, R)`, as `scores`."""
    order: Float[Tensor, "B 1 *S"] | None = None
    """`(B, 1, *S)`: in which order places matter, 1 for the first of n, 1/n for the last. Metrics that show or hide places one
    after the other follow it, others the map. `None` for methods whose map says both."""
    activation: Float[Tensor, "B C *L"] | None = None
    """What the layer puts out for the unperturbed input where channels are masked."""
    pictures: UInt8[Tensor, "B 3 H W"] | None = field(default=None, metadata=NOT_SAVED)
    """What the network saw, RGB of 8 bits, where a `Classifier` was explained: for display in a notebook. `save` leaves them
    out."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, plain JSON: the method's configuration, the target, versions, and what was used where the configuration
    leaves it open, such as `perturbation`. `per_query` names the lists in it that have one value for each query."""

    if not TYPE_CHECKING:  # a type checker would take it for the promise that any attribute is there

        def __getattr__(self, name: str) -> Any:
            """Raise `AttributeError`, which says where that is what other libraries call so."""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{ELSEWHERE.get(name, '')}", name=name)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all; `about` travels inside.

        Raises `ValueError` where the name ends like another kind of file, such as a picture.
        """
        if (suffix := Path(path).suffix.lower()) in OTHERS:
            raise ValueError(
                f"save writes safetensors files, which are not {suffix} files; "
                f'write result.save("{Path(path).with_suffix(".safetensors").name}")'
            )
        with written(path) as partial:
            save_file(file_tensors(self), partial, metadata={"format": FORMAT, "about": json.dumps(dict(self.about))})

    def to(self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """As `TensorResult.to`; but `order` keeps its type, as a half-precision number cannot tell all ranks apart."""
        moved = super().to(device, dtype)
        return moved if self.order is None else replace(moved, order=self.order.to(moved.map.device))

    def part(self, query: int | slice) -> Self:
        """What belongs to one query, still with a leading axis of length one, or to a slice of them; also `result[query]`.

        The tensors are views; `about` has the values of these queries only. Raises `IndexError` where there is no such query.
        """
        part = super().part(query)
        return replace(part, about=about_part(self.about, list(self._rows(query)), len(self)))

    @property
    def layer(self) -> str:
        """The layer that the method masked or looked at, as `about` tells it; "" for the input."""
        layer = self.method.get("layer")
        return layer if isinstance(layer, str) else ""

    def perturbations(self) -> tuple[Perturbation, ...]:
        """What hid places: none for a method that hides none, several for `MeaningfulPerturbation` with several.

        At a layer it hid the layer's values, not the input's. Raises `ValueError` for a perturbation that is not this
        package's own: `about` knows its name, from which it cannot be built again.
        """
        recorded = self.about.get("perturbation")
        if recorded is None and "perturbation" in self.method:  # a file of before it was recorded
            recorded = self.method["perturbation"] or as_json(default_perturbation(self.layer))
        if recorded is None:
            return ()
        return tuple(rebuild(one) for one in (recorded if isinstance(recorded, list | tuple) else [recorded]))

    def perturbation(self) -> Perturbation | None:
        """What hid places, or `None` for a method that hides none. Raises `ValueError` as `perturbations`, and for several."""
        used = self.perturbations()
        if len(used) > 1:
            raise ValueError(
                f"the result was made with {len(used)} perturbations together; take one of result.perturbations()"
            )
        return used[0] if used else None

    @property
    def method(self) -> Mapping[str, Any]:
        """The configuration of the method that made it, as `about` tells it; `{}` where it tells none."""
        method = self.about.get("method")
        return method if isinstance(method, Mapping) else {}

    def channels(self, count: int, variant: int = -1) -> tuple[Int[Tensor, "B {count}"], Float[Tensor, "B {count}"]]:
        """The channels, or groups of them, that weigh most, and their weights, the largest first.

        The weight is the mean of the masks up to that variant: 1 for a channel which the smallest sets have already. Among
        channels of one weight, those whose activation is larger on average come first. Raises `ValueError` where the masks
        are not of channels, or have fewer.
        """
        masks = self.channel_masks
        if not 1 <= count <= masks.shape[2]:
            raise ValueError(f"count must lie between 1 and the {masks.shape[2]} channels; got {count}")
        last = range(masks.shape[1])[variant]
        weights = masks[:, : last + 1].mean(1)
        size = self.activation.float().abs().flatten(2).mean(2).unflatten(1, (masks.shape[2], -1)).mean(2)  # type: ignore[union-attr]
        by_size = size.argsort(dim=1, descending=True, stable=True)
        order = weights.gather(1, by_size).argsort(dim=1, descending=True, stable=True)
        indices = by_size.gather(1, order)[:, :count]
        return indices, weights.gather(1, indices)

    def overlay(self, variant: int = -1) -> Float[Tensor, "B 1 *L"]:
        r"""$\sum_k m_k \Phi_k(x)$ for the mask $m$ of one variant (Fong et al. 2019, figure 8).

        Raises `ValueError` where the masks are not of channels.
        """
        return overlaid(self.channel_masks[:, variant], self.activation)  # type: ignore[arg-type]  # goes with such masks

    @property
    def channel_masks(self) -> Float[Tensor, "B V K"]:
        """The masks without axes of space, where they are of channels; else a `ValueError`."""
        if self.masks is None or self.activation is None:
            raise ValueError("the result has no masks of channels; give one made by ExtremalChannels")
        return self.masks.flatten(2)

    def __repr__(self) -> str:
        """Three lines: what was explained, what the masks or the map are, and where to find all."""
        count = f"{len(self)} {'query' if len(self) == 1 else 'queries'}"
        maker = str(self.method.get("class", "")).rpartition(":")[2]
        lines = [f"Attribution of {count}" + (f" by {maker}" if maker else "")]
        if self.masks is None:
            lines.append(f"map {tuple(self.map.shape)} from {float(self.map.min()):.3g} to {float(self.map.max()):.3g}")
        else:
            sizes = self.areas if self.areas is not None else None if self.achieved is None else self.achieved.mean(0)
            of_sizes = "" if sizes is None else f" of areas {', '.join(f'{float(size):.3g}' for size in sizes)}"
            kept = (
                ""
                if self.scores is None
                else f", which keep {', '.join(f'{float(s):.3g}' for s in self.scores.mean(0))}"
            )
            of_whole = "" if self.whole is None or not kept else f" of {float(self.whole.mean()):.3g}"
            mean = " (mean scores)" if kept and len(self) > 1 else ""
            lines.append(f"masks {tuple(self.masks.shape)}{of_sizes}{kept}{of_whole}{mean}")
        lines.append(f"on {self.map.device}: {', '.join([*self.tensors(), 'about'])}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: the masks, with a slider through their areas; over the picture, if the result holds it."""
        return str(sfumato.report.notebook(self))


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Attribution:
    """Read what `Attribution.save` wrote, wherever it was made, to a device.

    Raises `ValueError` for what is no such file, or holds what this version does not know.
    """
    if not Path(path).is_file():
        raise ValueError(f"cannot load {path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, as each tensor may hold its file open for as long as it lives.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"cannot load {path}: not a safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"cannot load {path}: its format is {metadata.get('format')!r}, not {FORMAT!r}, the one Attribution.save writes"
        )
    return attribution_of(tensors, _read_about(path, metadata), str(path)).to(device)


def attribution_of(tensors: Mapping[str, Tensor], about: Mapping[str, Any], where: str) -> Attribution:
    """The result whose `tensors()` and `about` were written at a place. Raises `ValueError` where they are not those of one."""
    names = {entry.name for entry in fields(Attribution) if entry.metadata.get("saved", True)} - {"about"}
    if unknown := sorted(set(tensors) - names):
        made = about.get("versions")
        writer = made.get("sfumato", "unknown") if isinstance(made, Mapping) else "unknown"
        raise ValueError(
            f"cannot load {where}: it holds {', '.join(map(repr, unknown))}, which sfumato {own_version()} does not know; it "
            f"was written by sfumato {writer}: update sfumato to read it"
        )
    if "map" not in tensors:
        raise ValueError(f"cannot load {where}: it holds no map; expected what Attribution.save wrote")
    return Attribution(**tensors, about=about)


def file_tensors(result: TensorResult) -> dict[str, Tensor]:
    """The tensors as files hold them: on the processor, and each on its own in memory. Pictures for display are left out."""
    left_out = {entry.name for entry in fields(result) if not entry.metadata.get("saved", True)}
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in result.tensors().items()
        if name not in left_out
    }


def _read_about(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        about = json.loads(metadata["about"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"cannot load {path}: its metadata say in no readable form how it was made ({error!r}); expected what "
            "Attribution.save wrote"
        ) from error
    if not isinstance(about, Mapping):
        raise ValueError(f"cannot load {path}: about must be a JSON object; got {about!r}")
    return about


def _walk_tensors(entries: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among values, and within them, by dotted names."""
    for name, value in entries:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, TensorResult):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in value.tensors().items())
        elif isinstance(value, tuple):
            yield from _walk_tensors((f"{name}.{place}", item) for place, item in enumerate(value))


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor], within: Callable[[TensorResult], TensorResult]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, TensorResult):
        return within(value)
    return tuple(_map_tensors(item, change, within) for item in value) if isinstance(value, tuple) else value


def _compact(tensor: Shaped[Tensor, "*P"]) -> Shaped[Tensor, "*P"]:
    """The tensor, in memory of its own where it is a view of a larger one."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def saliency(masks: Float[Tensor, "B V 1 *S"], smooth: float = 0.0, evenly: bool = False) -> Float[Tensor, "B 1 *S"]:
    r"""One map a query from its masks: their mean, smoothed.

    `smooth` is the Gaussian's width as a fraction of the shortest side. TorchRay's pointing game sums the masks, each
    smoothed with 0.09; that is this map times V, with the same maximum. `evenly` weighs each mask with $1 / \lVert m \rVert_1$,
    so that all have the same share in the map's sum; in the plain mean the largest has most.
    """
    if evenly:
        weights = 1 / masks.flatten(2).mean(2).clamp(min=TINY)
        weights = weights / weights.sum(1, keepdim=True)
        mean = (masks * weights.view(*weights.shape, *[1] * (masks.ndim - 2))).sum(1)
    else:
        mean = masks.mean(1)
    return gaussian_blur(mean, smooth * min(mean.shape[2:])) if smooth else mean


def ranks(values: Float[Tensor, "B 1 *S"]) -> Float[Tensor, "B 1 *S"]:
    """The rank of each of a map's n places, in float32: 1 for the highest, down to 1/n. Of equal ones, the earlier is higher.

    >>> ranks(torch.tensor([[[0.0, 7.0, 7.0, 5.0]]]))
    tensor([[[0.2500, 1.0000, 0.7500, 0.5000]]])
    """
    flat = values.flatten(1)
    count = flat.shape[1]
    falling = torch.linspace(1, 1 / count, count, dtype=torch.float32, device=flat.device).expand_as(flat)
    return torch.empty_like(falling).scatter_(1, flat.argsort(descending=True, stable=True), falling).view(values.shape)


TINY = 1e-6
"""Keeps the weight of a mask that shows nothing finite."""


def overlaid(masks: Float[Tensor, "N K"], activation: Float[Tensor, "N C *L"]) -> Float[Tensor, "N 1 *L"]:
    r"""$\sum_k m_k \Phi_k$ of masks and activations; a group has C / K channels."""
    weights = masks.repeat_interleave(activation.shape[1] // masks.shape[1], 1)
    return torch.einsum("nc,nc...->n...", weights, activation.float())[:, None]
