"""`sfumato explain --certificate` and `--bundle`: what an explanation may claim, beside it, and all in one folder."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli.errors import FAILED
from sfumato.cli.files import write_json
from sfumato.cli.outputs import digest_of
from sfumato.cli.progress import INTERVAL
from sfumato.settings import number

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.cli.queries import Query, Task
    from sfumato.evidence import Calibration, Claim
    from sfumato.evidence.certificate import Certificate, Certify
    from sfumato.methods import ExtremalPerturbation
    from sfumato.models import Classifier


@dataclass(frozen=True)
class Wanted:
    """The options of a command about evidence."""

    certificate: bool = False
    calibration: Path | None = None
    survival: Path | None = None
    backgrounds: Sequence[Path] = ()
    """Other pictures, on which the sets are pasted."""

    def others(self, classifier: "Classifier") -> "Tensor | None":
        """The other pictures, prepared for the network, `(K, C, H, W)`, if there are any.

        Raises `ValueError` for a file that is no picture, and where the network takes the pictures in different sizes.
        """
        import torch

        from sfumato.data import pictures

        if not self.backgrounds:
            return None
        prepared = [classifier.prepare(pictures.read(path)) for path in self.backgrounds]
        if len({values.shape for values in prepared}) > 1:
            raise ValueError(
                "--background: the network takes these pictures in different sizes; give one, or equal ones"
            )
        return torch.stack(prepared)

    @property
    def key(self) -> str:
        """A short name of the other pictures' content; empty without any."""
        return "".join(digest_of(path) for path in self.backgrounds)

    def certify(self, classifier: "Classifier", method: "ExtremalPerturbation") -> "Certify | None":
        """The default claims, with what was measured before, and with the sets of Grad-CAM if its layer is known.

        `None` if no certificate is wanted. Raises `ValueError` for files that are no such measurements, or were measured with
        another network or another method.
        """
        if not self.certificate:
            return None
        from sfumato.evidence import Calibration, SameAnswer, Survival, Survives
        from sfumato.evidence.certificate import Certify
        from sfumato.methods import GradCAM

        calibration = None if self.calibration is None else Calibration.load(self.calibration)
        survival = None if self.survival is None else Survival.load(self.survival)
        if calibration is not None:
            _check_network("--calibration", self.calibration, calibration.weights, classifier)
            _check_calibration(calibration, method, classifier)
        if survival is not None:
            _check_network("--survival", self.survival, survival.weights, classifier)
            _check_method(survival.method, method)
        grad_cam = classifier.placed(GradCAM())
        default = Certify().with_rivals(*([grad_cam] if grad_cam.layer else []))
        claims = [
            SameAnswer(calibration) if isinstance(claim, SameAnswer) and calibration is not None else claim
            for claim in default.claims
        ]
        return Certify((*claims, *([] if survival is None else [Survives(survival)])))


def _check_network(option: str, file: Path | None, weights: str, classifier: "Classifier") -> None:
    """Raise `ValueError` where a file was measured with a network of other weights."""
    from sfumato.evidence.measured import same_network

    if not same_network(weights, classifier.net):
        raise ValueError(
            f"{option}: {str(file)!r} was measured with another network than {classifier.name!r}, or other weights; write one "
            "for it with sfumato calibrate"
        )


def _check_calibration(calibration: "Calibration", method: "ExtremalPerturbation", classifier: "Classifier") -> None:
    """Raise `ValueError` where a calibration has no temperatures for what hides places in a search."""
    from sfumato.scores import SIGMOID, link_of_meaning

    for perturbation in method.used_perturbations():
        calibration.temperature(0.5, perturbation)
    if classifier.probability_link(link_of_meaning(method.score)) == SIGMOID:
        of_labels = f", and {classifier.name} answers several labels" if classifier.multi_label else ""
        raise ValueError(
            f"--calibration is for networks that answer one of several classes{of_labels}; leave it out"
            f"{'' if of_labels else ' with --score sigmoid'}"
        )


def _check_method(measured: "ExtremalPerturbation", method: "ExtremalPerturbation") -> None:
    """Raise `ValueError` where the areas of survival are of sets that another method made."""
    if type(measured) is not type(method):
        raise ValueError(
            f"--survival is about sets made by {type(measured).__name__}; got {type(method).__name__}. Write --method extremal"
        )
    for entry in fields(measured):
        asked, used = getattr(measured, entry.name), getattr(method, entry.name)
        if entry.init and asked != used:
            texts = (",".join(map(str, value)) if isinstance(value, tuple) else f"{value}" for value in (asked, used))
            wanted, given = texts
            options = {name: f"--{name} {wanted}" for name in ("areas", "steps", "seed")}
            raise ValueError(
                f"--survival is about sets made with {entry.name}={wanted}; got {given}. Write "
                f"{options.get(entry.name, f'--set {entry.name}=…, or calibrate with this setting')}"
            )


def certificate_of(
    certify: "Certify",
    result: "Attribution",
    classifier: "Classifier",
    inputs: "Tensor",
    query: "Query",
    others: "Tensor | None" = None,
) -> "Certificate":
    """The certificate of one query with inputs `(1, C, H, W)`; `others` are the pictures on which its set is pasted."""
    from sfumato.data import labels

    names = [labels.synonyms(label)[0] for label in classifier.labels]
    with claims_shown() as progress:
        target, backgrounds = query.target, None if others is None else others.to(inputs.device)
        return certify(result, classifier, inputs, target, labels=names, backgrounds=backgrounds, progress=progress)[0]


@contextmanager
def claims_shown(
    terminal: "Console | None" = None, clock: Callable[[], float] = time.monotonic
) -> "Iterator[Callable[[Claim, int, int], None]]":
    """What a certificate's `progress=` takes: says which claim is tested, on a terminal in one line that is removed at the end.

    Without a terminal a line is written every `INTERVAL` seconds at most.
    """
    from rich.console import Console

    from sfumato.runs.plans.catalogue import kebab

    terminal = terminal or Console(stderr=True)
    status = terminal.status("") if terminal.is_terminal else None
    last_line = clock()

    def show(claim: "Claim", index: int, count: int) -> None:
        nonlocal last_line
        line = f"certificate: testing claim {index + 1} of {count}, {kebab(type(claim).__name__).replace('-', ' ')}"
        if status is not None:
            status.update(line)
        elif clock() - last_line >= INTERVAL:
            last_line = clock()
            terminal.print(line, markup=False, highlight=False, soft_wrap=True)

    with status or nullcontext():
        yield show


def check_others(others: "Tensor | None", inputs: "Tensor") -> None:
    """Raise `ValueError` where sets of inputs `(B, C, H, W)` cannot be pasted on the other pictures."""
    if others is not None and others.shape[1:] != inputs.shape[1:]:
        (height, width), (own_height, own_width) = others.shape[2:], inputs.shape[2:]
        raise ValueError(
            f"--background: the network takes the other picture as {width} × {height} pixels, and the explained one as "
            f"{own_width} × {own_height}; give another picture of the same shape"
        )


def key_of(certify: "Certify", others: str = "") -> str:
    """A short name of all that is tested, with what was measured before, and the `key` of other pictures."""
    from sfumato.settings import as_json

    return hashlib.sha256((json.dumps(as_json(certify), sort_keys=True) + others).encode()).hexdigest()


ENDINGS = (".png", ".safetensors", ".json")
"""Of the files of a certificate."""


def forget(query: "Query", out: Path) -> None:
    """Remove the certificate of an earlier result, or of one that was not finished, before a result without one is written."""
    for ending in ENDINGS:
        (out / f"{query.stem}-certificate{ending}").unlink(missing_ok=True)


def write(certificate: "Certificate", query: "Query", classifier: "Classifier", out: Path) -> None:
    """Write the figure, the sentences and numbers, and the sets of a certificate."""
    from safetensors.torch import save_file

    from sfumato import plots
    from sfumato.files import written

    stem = f"{query.stem}-certificate"
    plots.save(plots.certificate(certificate, query.picture, query.title, classifier), out / f"{stem}.png")
    sets = {"places": certificate.places} | {
        f"{finding.claim}: {name}": places for finding in certificate.findings for name, places in finding.sets.items()
    }
    with written(out / f"{stem}.safetensors") as partial:
        save_file({name: places.cpu().contiguous() for name, places in sets.items()}, partial)
    write_json(out / f"{stem}.json", certificate.as_json())


@contextmanager
def bundled(
    folder: Path | None, task: "Task", facts: Mapping[str, Any], expected: int | None = None
) -> "Iterator[Callable[[Query], None]]":
    """A context in which a command writes into `folder`, a bundle, if there is one.

    It gives a function that is called with each query that has been explained. It copies the picture into the bundle, and notes
    for the manifest what was explained, what the network answers, and the `expected` class, if it is known. Raises `ValueError`
    where the folder is not new or empty, and for a picture that has changed since it was read.
    """
    if folder is None:
        yield lambda _: None
        return
    from sfumato.evidence.bundle import bundle
    from sfumato.model.fingerprint import fingerprint

    labels, results = task.classifier.labels, list[dict[str, Any]]()
    known = {"model": task.classifier.name, "weights": fingerprint(task.classifier.net), **facts, "results": results}
    with bundle(folder, known) as place:

        def add(query: "Query") -> None:
            name = _copied(query, list(task.paths), place)
            (answer, probability), *_ = query.top
            results.append(
                {
                    "result": query.stem,
                    "picture": name,
                    "explained": _class(query.target, labels),
                    "predicted": _class(answer, labels) | {"probability": number(probability)},
                    "expected": None if expected is None else _class(expected, labels),
                }
            )

        yield add
        if not results:  # each failure has been reported
            raise typer.Exit(FAILED)


def _class(index: int, labels: Sequence[str]) -> dict[str, Any]:
    return {"index": index, "label": labels[index]}


def _copied(query: "Query", paths: Sequence[Path], place: Path) -> str:
    """Copy the picture of a query into a bundle, once. Returns its name there."""
    name = f"pictures/{paths.index(query.source)}-{query.source.name}"
    copy = place / name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(query.source, copy)
        if digest_of(copy) != query.made_from["picture"]:
            raise ValueError(
                f"{str(query.source)!r} has changed since it was explained; do it again into another folder"
            )
    return name
