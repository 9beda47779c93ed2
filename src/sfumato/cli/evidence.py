"""`sfumato explain --certificate` and `--bundle`: what an explanation may claim, beside it, and all in one folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.cli.queries import Query, Task
    from sfumato.evidence import Claim
    from sfumato.evidence.certificate import Certificate
    from sfumato.models import Classifier


@dataclass(frozen=True)
class Wanted:
    """The options of a command about evidence."""

    certificate: bool = False
    calibration: Path | None = None
    survival: Path | None = None

    def claims(self, classifier: "Classifier") -> "tuple[Claim, ...]":
        """The default claims, with what was measured before, and with the sets of Grad-CAM if its layer is known."""
        from sfumato.evidence import BetterThanChance, Calibration, Claim, SameAnswer, Survival, Survives
        from sfumato.evidence.certificate import Certify
        from sfumato.methods import GradCAM

        grad_cam = classifier.placed(GradCAM())

        def informed(claim: Claim) -> Claim:
            if isinstance(claim, SameAnswer) and self.calibration:
                return SameAnswer(Calibration.load(self.calibration))
            if isinstance(claim, BetterThanChance) and grad_cam.layer:
                return replace(claim, rivals=(*claim.rivals, grad_cam))
            return claim

        claims = tuple(map(informed, Certify().claims))
        return (*claims, Survives(Survival.load(self.survival))) if self.survival else claims

    def certify(
        self, result: "Attribution", classifier: "Classifier", inputs: "Tensor", query: "Query"
    ) -> "Certificate | None":
        """The certificate of one query with inputs `(1, C, H, W)`, if one is wanted."""
        if not self.certificate:
            return None
        from sfumato.data import labels
        from sfumato.evidence.certificate import Certify

        names = [labels.synonyms(label)[0] for label in classifier.labels]
        certify = Certify(self.claims(classifier))
        return certify(result, classifier.net, inputs, query.target, labels=names)[0]


def findings(certificate: "Certificate") -> dict[str, Any]:
    """What the summary of a result and its `about` say of a certificate."""
    content = certificate.as_json()
    return {name: content[name] for name in ("area", "holds", "findings")}


def write(certificate: "Certificate", query: "Query", classifier: "Classifier", out: Path) -> None:
    """Write the figure, the sentences and numbers, and the sets of a certificate, and print it."""
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
    typer.echo(str(certificate))


@contextmanager
def bundled(folder: Path | None, task: "Task", facts: Mapping[str, Any]) -> Iterator[None]:
    """A context in which a command writes into `folder`, a bundle, if there is one. Its pictures are copied into it at the end.

    Raises `ValueError` where the folder is not new or empty.
    """
    if folder is None:
        yield
        return
    import shutil

    from sfumato.evidence.bundle import bundle
    from sfumato.model.fingerprint import fingerprint

    known = {"model": task.classifier.name, "weights": fingerprint(task.classifier.net), **facts}
    with bundle(folder, known) as place:
        yield
        (place / "pictures").mkdir()
        for number, path in enumerate(task.paths):
            shutil.copyfile(path, place / "pictures" / f"{number}-{path.name}")
