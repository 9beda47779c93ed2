r"""The channels that a class needs: the mean over its pictures of the masks $m_{a^*}$, and what excites these channels.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019,
arXiv 1910.08485, section 4 and figure 10.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sfumato.about import versions
from sfumato.behaviour.peaks import Peaks, peaks_of
from sfumato.behaviour.records import Record, Records, check_told
from sfumato.data.pictures import AnyPath, find, read
from sfumato.layers.axes import Axes
from sfumato.layers.below import below
from sfumato.layers.flow import axes_at
from sfumato.methods.extremal_channels import ExtremalChannels
from sfumato.methods.sufficient import smallest
from sfumato.model.effects import device_of
from sfumato.model.fingerprint import fingerprint
from sfumato.model.modes import Surroundings
from sfumato.model.subject import Subject
from sfumato.models.classifier import Classifier
from sfumato.scores import Score, as_score
from sfumato.settings import as_json, as_key

TOLD = 3
"""Reasons in an error, at most."""


class Crop(NamedTuple):
    """The part of a picture that excites a channel."""

    path: Path
    picture: Image.Image
    activation: float


@dataclass(frozen=True)
class Finished:
    """A picture that is done, and where it stands among all; first come those of the class, then the others."""

    path: Path
    index: int
    """From 0."""
    pictures: int
    """How many there will be."""
    count: int | None = None
    """Of the channels that are enough; `None` if the picture is left out, or only its peaks are wanted."""
    reason: str = ""
    """Why it is left out."""


@dataclass(frozen=True, eq=False)
class ClassChannels:
    """The masks of `K` channels, or groups of them, found for each of `n` pictures of a class."""

    classifier: Classifier
    pictures: tuple[Path, ...]
    masks: Tensor
    """`(n, K)`, in [0, 1]."""
    counts: Tensor
    """$a^*$, or the count that was asked for, `(n,)`."""
    scores: Tensor
    """What each mask keeps, `(n,)`."""
    whole: Tensor
    """The score of the whole picture, `(n,)`."""
    left_out: tuple[tuple[Path, str], ...]
    """Pictures that could not be used, and why."""
    peaks: Peaks
    """Of these pictures, in this order, and then of those of `among` that are others."""
    about: Mapping[str, Any]
    """How it was made; plain JSON."""

    @cached_property
    def mean(self) -> Tensor:
        """The channels' attribution to the class: the masks' mean, `(K,)`."""
        return self.masks.double().mean(0).float()

    @cached_property
    def spread(self) -> Tensor:
        """The standard deviation of each channel's mask over these pictures, `(K,)`."""
        return self.masks.double().std(0, correction=0).float()

    def top(self, count: int) -> tuple[Tensor, Tensor]:
        """The channels, or groups, that weigh most in the mean, and their weights: both `(count,)`, the largest first."""
        if not 1 <= count <= len(self.mean):
            raise ValueError(f"count must lie between 1 and the {len(self.mean)} channels; got {count}")
        weights, indices = self.mean.sort(descending=True, stable=True)
        return indices[:count], weights[:count]

    def crops(self, channel: int, count: int, side: float = 0.4) -> list[Crop]:
        """What excites a channel, or a group, most: the parts of `count` different pictures around its peaks, best first.

        They are cut from the pictures as the network sees them: squares of `side` times the shorter side, about the peak
        and within the picture. Fewer come back where fewer pictures excite the channel more in one place than elsewhere.
        Raises `ValueError` where the layer has no places.
        """
        channels = self.peaks.values.shape[1]
        if not 0 <= channel < channels:
            raise ValueError(f"there is no channel {channel}; expected an index from 0 to {channels - 1}")
        if count < 1:
            raise ValueError(f"count is a number of pictures, from 1 up; got {count}")
        if not 0 < side <= 1:
            raise ValueError(f"side is a share of the picture's shorter side, in (0, 1]; got {side:g}")
        if self.peaks.places.isnan().all():
            raise ValueError(
                f"the layer {self.about['method']['layer']!r} has no places, or none where a channel is excited more than "
                "elsewhere, so nothing can be cut out; name one whose output is (N, C, H, W) or a grid of tokens"
            )
        values, places = self.peaks.values[:, channel], self.peaks.places[:, channel]
        order = self.peaks.around[:, channel].argsort(descending=True, stable=True)
        order = order[values[order].argsort(descending=True, stable=True)]
        rows = order[~places[order].isnan().any(1)][:count].tolist()
        return [self._crop(self.peaks.pictures[row], places[row].tolist(), float(values[row]), side) for row in rows]

    def _crop(self, path: Path, place: list[float], activation: float, side: float) -> Crop:
        seen = self.classifier.restore(self.classifier.prepare(read(path)))
        size = max(1, round(side * min(seen.shape[1:])))
        top, left = (
            min(max(int(middle * length - size / 2 + 0.5), 0), length - size)
            for middle, length in zip(place, seen.shape[1:], strict=True)
        )
        square = seen[:, top : top + size, left : left + size].permute(1, 2, 0)
        return Crop(path, Image.fromarray((square * 255).round().byte().cpu().numpy()), activation)

    def __len__(self) -> int:
        """The number of pictures whose masks these are."""
        return len(self.pictures)


def class_channels(
    method: ExtremalChannels,
    classifier: Classifier,
    pictures: AnyPath | Iterable[AnyPath],
    target: int | Score,
    *,
    keep: float | None = 0.9,
    out: AnyPath | None = None,
    among: AnyPath | Iterable[AnyPath] | None = None,
    progress: Callable[[Finished], object] | None = None,
) -> ClassChannels:
    r"""Find the mask of each picture of a class: $m_{a^*}$, the smallest that keeps the share `keep` of its score.

    With `keep=None` it is the mask of the method's largest count instead. `pictures` are paths, or a folder; `target` is
    their class, or a `Score`. What excites the channels is looked up in these pictures, and, if given, in those `among`
    which one wants to see examples: each goes through the network once, up to the layer.

    A picture is left out where it cannot be read, is another's copy, has a score that is not positive, of which no share
    can be kept, or where no count of channels keeps that share. `progress` is told of each.

    With `out`, a folder, all that is found out about a picture is written there at once, and read again by a later call
    with the same settings, picture, weights, and versions of sfumato and torch: a call that was broken off goes on where it
    was. Files of other settings may lie there too. Each picture goes through the network alone: in batches of other
    pictures the last digits would differ, so that a call which goes on would not end as one that was not broken off.

    Raises `ValueError` where nothing can be used, or settings are no good.
    """
    study = Study.of(method, classifier, target, keep, out)
    explained, left_out = _files(pictures, "pictures")
    others, missing = _files(among, "among") if among is not None else ([], {})
    names: dict[str, Path] = {}  # of the pictures used, by their bytes
    masks: list[Record] = []
    peaks: list[Record] = []
    with study.looking() as peak:
        for index, path in enumerate(chain(explained, others)):
            of_class, count, reason = index < len(explained), None, ""
            if not of_class and not masks:
                break  # there is nothing to show examples of
            try:
                picture = PictureFile.of(path, study)
                known = names.get(picture.digest)
                if known is None:
                    mask = study.mask(picture) if of_class else None
                    peaks.append(peak(picture))
                    names[picture.digest] = path
                    if mask is not None:
                        masks.append(mask)
                        count = int(mask["count"])
                elif of_class:
                    raise UnusableError(f"{str(path)!r} is the same picture as {str(known)!r}")
            except UnusableError as error:
                reason = left_out[path] = str(error)
            if progress is not None:
                progress(Finished(path, index, len(explained) + len(others), count, reason))
    left_out |= missing
    if not masks:
        more = f", and {len(left_out) - TOLD} more" if len(left_out) > TOLD else ""
        raise ValueError(f"no picture of the class can be used: {'; '.join(list(left_out.values())[:TOLD])}{more}")
    used = tuple(names.values())
    return ClassChannels(
        classifier=classifier,
        pictures=used[: len(masks)],
        masks=_stacked(masks, "mask"),
        counts=_stacked(masks, "count"),
        scores=_stacked(masks, "score"),
        whole=_stacked(masks, "whole"),
        left_out=tuple(left_out.items()),
        peaks=Peaks(used, *(_stacked(peaks, name) for name in ("values", "around", "places"))),
        about=study.about,
    )


class UnusableError(ValueError):
    """Why a picture is left out."""


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A picture file for the network, decoded on first use."""

    path: Path
    digest: str
    """A hash of the file's bytes."""
    study: "Study"

    @classmethod
    def of(cls, path: Path, study: "Study") -> "PictureFile":
        try:
            content = path.read_bytes() if path.is_file() else b""  # a pipe or device would block
        except OSError as error:
            raise UnusableError(f"cannot read {str(path)!r}: {error}") from error
        return cls(path, hashlib.sha256(content).hexdigest(), study)

    @cached_property
    def inputs(self) -> Tensor:
        """`(1, C, H, W)`, where the network is."""
        try:
            return self.study.classifier.prepare(read(self.path))[None].to(self.study.device)
        except ValueError as error:
            raise UnusableError(str(error)) from error


@dataclass(frozen=True, eq=False)
class Study:
    """What is asked of each picture, and where the answers are kept."""

    method: ExtremalChannels
    classifier: Classifier
    score: Score
    keep: float | None
    records: "Records"
    about: Mapping[str, Any]
    """What a mask depends on, besides the picture."""
    about_peaks: Mapping[str, Any]
    """What the peaks depend on: the network and the layer, but neither the class nor how channels are sought."""

    @classmethod
    def of(cls, method: Any, classifier: Any, target: Any, keep: float | None, out: AnyPath | None) -> "Study":
        """Raises `ValueError` for what cannot be used, as far as that shows without the network."""
        if not isinstance(method, ExtremalChannels):
            raise ValueError(f"method must be one that masks channels, ExtremalChannels(layer=…); got {method!r}")
        if not isinstance(classifier, Classifier):
            raise ValueError(
                f"classifier must be a sfumato.models.Classifier, which can prepare pictures, as models.load gives it; got "
                f"a {type(classifier).__name__}"
            )
        if keep is None:
            method = replace(method, counts=method.counts[-1:])
        elif isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
            raise ValueError(f"keep is a share of the whole picture's score, in (0, 1], or None; got {keep!r}")
        labels = torch.empty(1, len(classifier.labels), dtype=torch.float32, device="cpu")  # one an output
        score = as_score(target, 1, method.score).resolve(labels)
        if out is not None:
            check_told("method", method)
            check_told("target", score)
        surroundings = Surroundings.now(device_of(classifier.net))
        network = {
            "model": classifier.name,
            "weights": fingerprint(classifier.net),
            "preparation": as_json(classifier.preparation),
            "autocast": str(surroundings.dtype) if surroundings.autocast else None,
            "versions": {name: version for name, version in versions().items() if name != "python"},
        }
        own = {"method": as_key(method), "score": as_json(score), "keep": None if keep is None else float(keep)}
        layer = {"layer": method.layer, "at": method.at, "groups": method.groups}
        layer |= {name: value for name, value in as_key(method).items() if name in ("call", "layout")}
        plain = (json.loads(json.dumps(about)) for about in (own | network, layer | network))
        return cls(method, classifier, score, keep, Records.at(out), *plain)

    @property
    def device(self) -> torch.device:
        return device_of(self.classifier.net)

    def mask(self, picture: PictureFile) -> Record:
        """The picture's mask `(K,)`, the count of its channels, and the scores of what it keeps and of the whole."""
        record = self.records.of(
            {"kind": "mask", "picture": picture.digest, **self.about}, lambda: self._found(picture)
        )
        if "mask" not in record:
            raise UnusableError(
                f"the score of {str(picture.path)!r}, {record['whole'].item():.3g}, is not positive, so that no share of it "
                "can be kept"
            )
        if not record["count"]:
            raise UnusableError(
                f"no count of channels keeps {self.keep:.0%} of the score of {str(picture.path)!r}, "
                f"{record['whole'].item():.3g}; the most is {record['score'].item():.3g}"
            )
        return record

    def _found(self, picture: PictureFile) -> Record:
        net, inputs = self.classifier.net, picture.inputs
        if self.keep is None:
            result = self.method(net, inputs, self.score)
            count = torch.tensor(self.method.counts[-1], dtype=torch.long, device="cpu")
        else:
            with Subject.prepared(net, inputs, self.score) as subject:
                _, whole = subject.probe(self.method.memory)
            if whole <= 0:
                return {"whole": whole[0].cpu()}
            found = smallest(self.method, net, inputs, self.score, keep=self.keep)
            assert found.count is not None  # noqa: S101  # for the type checker: masks of channels are counted
            result, count = found.attribution, found.count[0].cpu()
        assert result.scores is not None  # noqa: S101  # for the type checker
        assert result.whole is not None  # noqa: S101
        return {
            "mask": result.channel_masks[0, 0].cpu(),
            "count": count,
            "score": result.scores[0, 0].cpu(),
            "whole": result.whole[0].cpu(),
        }

    @contextmanager
    def looking(self) -> Iterator[Callable[[PictureFile], Record]]:
        """What finds the peaks of a picture: their values `(K,)` and places `(K, 2)`."""
        net, method = self.classifier.net, self.method
        surroundings = Surroundings.now(self.device)
        axes: dict[tuple[int, ...], Axes | None] = {}
        with below(net, method.layer, method.at, lambda seen: surroundings.call(net, seen), method.call) as phi:

            def computed(picture: PictureFile) -> Record:
                with surroundings.computing(), torch.no_grad():
                    inputs = picture.inputs
                    shape = tuple(inputs.shape[1:])
                    if shape not in axes:
                        run = partial(surroundings.call, net)
                        axes[shape] = axes_at(net, method.layer, method.at, inputs, run, method.layout, method.call)
                    return peaks_of(phi(inputs), shape[1:], method, axes[shape])

            def peak(picture: PictureFile) -> Record:
                about = {"kind": "peaks", "picture": picture.digest, **self.about_peaks}
                return self.records.of(about, lambda: computed(picture))

            yield peak


def _files(paths: AnyPath | Iterable[AnyPath], name: str) -> tuple[list[Path], dict[Path, str]]:
    """The picture files meant, and paths that mean none, with the reason; of a single path that is an error."""
    if isinstance(paths, str | os.PathLike):
        return find(paths), {}
    found: dict[Path, None] = {}
    missing: dict[Path, str] = {}
    for path in map(Path, paths):
        try:
            found |= dict.fromkeys(find(path))
        except ValueError as error:
            missing[path] = str(error)
    if not found and not missing:
        raise ValueError(f"{name} names no picture; give paths of pictures, or of a folder of them")
    return list(found), missing


def _stacked(records: list[Record], name: str) -> Tensor:
    return torch.stack([record[name] for record in records])
