r"""The channels that a class needs: the mean of the masks $m_{a^*}$ over its pictures, and what activates these channels.

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
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor

from sfumato.about import versions
from sfumato.behaviour.peaks import SQUARE, Peaks, peaks_of, square_around
from sfumato.behaviour.records import Record, Records, check_describable
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
from sfumato.settings import as_json, as_key, keywords_told, percent

MAX_REASONS = 3
"""How many reasons an error lists, at most."""


class Crop(NamedTuple):
    """The part of a picture that activates a channel."""

    path: Path
    picture: Image.Image
    activation: float


@dataclass(frozen=True)
class Finished:
    """A progress report: one picture is done. Pictures of the class come first, then the others."""

    path: Path
    index: int
    """The position of the picture, from 0."""
    pictures: int
    """The number of all pictures."""
    count: int | None = None
    """The number of channels that suffice; `None` if the picture is left out, or if only its peaks are computed."""
    reason: str = ""
    """Why the picture is left out; empty if it is not."""


@dataclass(frozen=True, eq=False)
class ClassChannels:
    """The masks of `K` channels, or groups of channels, for each of `n` pictures of a class."""

    classifier: Classifier
    pictures: tuple[Path, ...]
    masks: Float[Tensor, "n K"]
    """In [0, 1]."""
    counts: Int[Tensor, " n"]
    """The number of channels in each mask, $a^*$ or the method's largest count."""
    scores: Float[Tensor, " n"]
    """The score of what each mask keeps."""
    whole: Float[Tensor, " n"]
    """The score of each whole picture."""
    left_out: tuple[tuple[Path, str], ...]
    """Pictures that could not be used, each with the reason."""
    peaks: Peaks
    """The peaks of these pictures, in this order, then of further pictures of `among`."""
    about: Mapping[str, Any]
    """How the masks were made; plain JSON."""

    @cached_property
    def mean(self) -> Float[Tensor, " K"]:
        """The attribution of the class to the channels: the mean of the masks."""
        return self.masks.double().mean(0).float()

    @cached_property
    def spread(self) -> Float[Tensor, " K"]:
        """The standard deviation of each channel's mask over these pictures."""
        return self.masks.double().std(0, correction=0).float()

    def top(self, count: int) -> tuple[Int[Tensor, " {count}"], Float[Tensor, " {count}"]]:
        """The channels, or groups, with the largest means, and these means, the largest first.

        Raises `ValueError` unless `count` is from 1 to the number of channels.
        """
        if not 1 <= count <= len(self.mean):
            raise ValueError(f"count must lie between 1 and the {len(self.mean)} channels; got {count}")
        weights, indices = self.mean.sort(descending=True, stable=True)
        return indices[:count], weights[:count]

    def crops(self, channel: int, count: int, side: float = SQUARE) -> list[Crop]:
        """The parts of `count` different pictures around the peaks of a channel or group, the largest activation first.

        They are cut from the pictures as the network sees them: squares of `side` times the shorter side, around the peak and
        within the picture. There are fewer crops if the channel has a peak in fewer pictures. Raises `ValueError` if the layer
        has no places.
        """
        channels = self.peaks.values.shape[1]
        if not 0 <= channel < channels:
            raise ValueError(f"there is no channel {channel}; expected an index from 0 to {channels - 1}")
        if count < 1:
            raise ValueError(f"count must be a number of pictures, from 1; got {count}")
        if not 0 < side <= 1:
            raise ValueError(f"side must be a share of the picture's shorter side, in (0, 1]; got {side:g}")
        if self.peaks.places.isnan().all():
            raise ValueError(
                f"the layer {self.about['method']['layer']!r} has no places, or no channel with a peak, so nothing can be cut "
                "out; use a layer whose output is (N, C, H, W) or a grid of tokens"
            )
        values, places = self.peaks.values[:, channel], self.peaks.places[:, channel]
        order = self.peaks.around[:, channel].argsort(descending=True, stable=True)
        order = order[values[order].argsort(descending=True, stable=True)]
        rows = order[~places[order].isnan().any(1)][:count].tolist()
        return [self._crop(self.peaks.pictures[row], places[row].tolist(), float(values[row]), side) for row in rows]

    def _crop(self, path: Path, place: list[float], activation: float, side: float) -> Crop:
        picture = self.classifier.restore(self.classifier.prepare(read(path)))
        square = square_around(picture, place, side).permute(1, 2, 0)
        return Crop(path, Image.fromarray((square * 255).round().byte().cpu().numpy()), activation)

    def __len__(self) -> int:
        """The number of pictures with masks."""
        return len(self.pictures)


@keywords_told
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

    - `pictures`: paths of pictures of the class, or of a folder of them.
    - `target`: the class of the pictures, or a `Score`.
    - `keep`: `None` for the mask of the method's largest count instead.
    - `among`: further pictures in which to look for peaks of the channels. Each picture goes through the network once, up to
      the layer.
    - `progress`: called with a `Finished` after each picture.
    - `out`: a folder in which the results of each picture are stored as soon as they are computed. A later call with the same
      settings, picture, weights, and versions of sfumato and torch reads them, so that an interrupted call can go on. The
      folder may also hold results of other settings.

    A picture is left out if it cannot be read, if it is a copy of another, if its score is not positive, so that no share of
    it can be kept, or if no count of channels keeps the share. Each picture goes through the network alone. In a batch the
    last digits would depend on the other pictures, so a resumed call would not give the results of an uninterrupted one.

    Raises `ValueError` for wrong settings, and if no picture can be used.
    """
    study = Study.of(method, classifier, target, keep, out)
    class_paths, left_out = _files(pictures, "pictures")
    more_paths, missing = _files(among, "among") if among is not None else ([], {})
    names: dict[str, Path] = {}  # the pictures that are used, by the hash of their bytes
    masks: list[Record] = []
    peaks: list[Record] = []
    with study.peak_finder() as find_peaks:
        for index, path in enumerate(chain(class_paths, more_paths)):
            of_class, count, reason = index < len(class_paths), None, ""
            if not of_class and not masks:
                break  # no channels to show examples of
            try:
                picture = StudyPicture.read(path, study)
                original = names.get(picture.digest)
                if original is None:
                    mask = study.mask(picture) if of_class else None
                    peaks.append(find_peaks(picture))
                    names[picture.digest] = path
                    if mask is not None:
                        masks.append(mask)
                        count = int(mask["count"])
                elif of_class:
                    raise UnusableError(f"{str(path)!r} is the same picture as {str(original)!r}")
            except UnusableError as error:
                reason = left_out[path] = str(error)
            if progress is not None:
                progress(Finished(path, index, len(class_paths) + len(more_paths), count, reason))
    left_out |= missing
    if not masks:
        more = f", and {len(left_out) - MAX_REASONS} more" if len(left_out) > MAX_REASONS else ""
        raise ValueError(
            f"no picture of the class can be used: {'; '.join(list(left_out.values())[:MAX_REASONS])}{more}"
        )
    paths = tuple(names.values())
    return ClassChannels(
        classifier=classifier,
        pictures=paths[: len(masks)],
        masks=_stack(masks, "mask"),
        counts=_stack(masks, "count"),
        scores=_stack(masks, "score"),
        whole=_stack(masks, "whole"),
        left_out=tuple(left_out.items()),
        peaks=Peaks(paths, *(_stack(peaks, name) for name in ("values", "around", "places"))),
        about=study.about,
    )


class UnusableError(ValueError):
    """The reason why a picture is left out."""


@dataclass(frozen=True, eq=False)
class StudyPicture:
    """A picture of a study, which is decoded on first use."""

    path: Path
    digest: str
    """A hash of the file's bytes."""
    study: "Study"

    @classmethod
    def read(cls, path: Path, study: "Study") -> "StudyPicture":
        """Read the bytes of a file. Raises `UnusableError` if that fails."""
        try:
            content = path.read_bytes() if path.is_file() else b""  # a pipe or device would block
        except OSError as error:
            raise UnusableError(f"cannot read {str(path)!r}: {error}") from error
        return cls(path, hashlib.sha256(content).hexdigest(), study)

    @cached_property
    def inputs(self) -> Float[Tensor, "1 C H W"]:
        """On the network's device. Raises `UnusableError` if the picture cannot be decoded."""
        try:
            return self.study.classifier.prepare(read(self.path))[None].to(self.study.device)
        except ValueError as error:
            raise UnusableError(str(error)) from error


@dataclass(frozen=True, eq=False)
class Study:
    """The computation for each picture, and the records of its results."""

    method: ExtremalChannels
    classifier: Classifier
    score: Score
    keep: float | None
    records: "Records"
    about: Mapping[str, Any]
    """Everything that a mask depends on, apart from the picture."""
    about_peaks: Mapping[str, Any]
    """Everything that peaks depend on, apart from the picture: the network and the layer, not the class or the search."""

    @classmethod
    def of(cls, method: Any, classifier: Any, target: Any, keep: float | None, out: AnyPath | None) -> "Study":
        """Make a study of checked settings. Raises `ValueError` for errors that show without running the network."""
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
        labels = torch.empty(1, len(classifier.labels), dtype=torch.float32, device="cpu")  # one for each output
        score = as_score(target, 1, method.score).resolve(labels)
        if out is not None:
            check_describable("method", method)
            check_describable("target", score)
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

    def mask(self, picture: StudyPicture) -> Record:
        """The picture's mask `(K,)`, its number of channels, and the scores of what it keeps and of the whole picture.

        Raises `UnusableError` if the score is not positive, or if no count of channels keeps the share of it.
        """
        about = {"kind": "mask", "picture": picture.digest, **self.about}
        record = self.records.get_or_compute(about, lambda: self._compute_mask(picture))
        if "mask" not in record:
            raise UnusableError(
                f"the score of {str(picture.path)!r}, {record['whole'].item():.3g}, is not positive, so no share of it can "
                "be kept"
            )
        if not record["count"]:
            raise UnusableError(
                f"no count of channels keeps {percent(self.keep)} of the score of {str(picture.path)!r}, "
                f"{record['whole'].item():.3g}; the most is {record['score'].item():.3g}"
            )
        return record

    def _compute_mask(self, picture: StudyPicture) -> Record:
        net, inputs = self.classifier.net, picture.inputs
        if self.keep is None:
            result = self.method(net, inputs, self.score)
            count = torch.tensor(self.method.counts[-1], dtype=torch.long, device="cpu")
        else:
            with Subject.prepared(net, inputs, self.score) as subject:
                _, score = subject.probe(self.method.memory)
            if score <= 0:
                return {"whole": score[0].cpu()}
            sufficient = smallest(self.method, net, inputs, self.score, keep=self.keep)
            assert sufficient.count is not None  # noqa: S101  # for the type checker: masks of channels are counted
            result, count = sufficient.attribution, sufficient.count[0].cpu()
        assert result.scores is not None  # noqa: S101  # for the type checker
        assert result.whole is not None  # noqa: S101
        return {
            "mask": result.channel_masks[0, 0].cpu(),
            "count": count,
            "score": result.scores[0, 0].cpu(),
            "whole": result.whole[0].cpu(),
        }

    @contextmanager
    def peak_finder(self) -> Iterator[Callable[[StudyPicture], Record]]:
        """A function that finds the peaks of a picture: their values `(K,)` and places `(K, 2)`."""
        net, method = self.classifier.net, self.method
        surroundings = Surroundings.now(self.device)
        axes: dict[tuple[int, ...], Axes | None] = {}
        with below(net, method.layer, method.at, lambda inputs: surroundings.call(net, inputs), method.call) as phi:

            def compute(picture: StudyPicture) -> Record:
                with surroundings.computing(), torch.no_grad():
                    inputs = picture.inputs
                    shape = tuple(inputs.shape[1:])
                    if shape not in axes:
                        run = partial(surroundings.call, net)
                        axes[shape] = axes_at(net, method.layer, method.at, inputs, run, method.layout, method.call)
                    return peaks_of(phi(inputs), shape[1:], method, axes[shape])

            def find_peaks(picture: StudyPicture) -> Record:
                about = {"kind": "peaks", "picture": picture.digest, **self.about_peaks}
                return self.records.get_or_compute(about, lambda: compute(picture))

            yield find_peaks


def _files(paths: AnyPath | Iterable[AnyPath], name: str) -> tuple[list[Path], dict[Path, str]]:
    """The picture files of `paths`, and the paths without pictures, with the reason. Raises `ValueError` for a single path."""
    if isinstance(paths, str | os.PathLike):
        return find(paths), {}
    files: dict[Path, None] = {}
    missing: dict[Path, str] = {}
    for path in map(Path, paths):
        try:
            files |= dict.fromkeys(find(path))
        except ValueError as error:
            missing[path] = str(error)
    if not files and not missing:
        raise ValueError(f"{name} names no picture; give paths of pictures, or of a folder of them")
    return list(files), missing


def _stack(records: list[Record], name: str) -> Shaped[Tensor, "n ..."]:
    return torch.stack([record[name] for record in records])
