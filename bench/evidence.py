"""How often each claim of a certificate holds, on real networks and pictures: `.venv/bin/python bench/evidence.py OUT`.

For each network, `--pictures` ImageNet pictures after the first 100, each explained for the network's own answer:

- the certificate of its smallest set that is worth nine tenths of the score, with its passes and seconds;
- from which of the areas on the answer survives: the areas of all pictures but one say at which area it survives with 90 %,
  and whether it does on the one left out;
- the calibration error of random smooth sets, before and after a calibration on the other half of the pictures.

A row is written for each picture as soon as it is done; the same command goes on where it stopped. `--table` only prints.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import shared_models
import torch
from shared_models import SHARED
from torch import Tensor

import sfumato
from sfumato.data import pictures
from sfumato.evidence import Calibrate, Survival
from sfumato.evidence.calibration import calibration_error
from sfumato.evidence.surviving import same_answers, surviving_area
from sfumato.metrics.intervals import wilson
from sfumato.model.subject import Subject
from sfumato.models import Classifier

AREAS = (0.1, 0.2, 0.4, 0.7)


def classifier_of(name: str) -> Classifier:
    """A network of the shared models, or of sfumato's."""
    made: Classifier = getattr(shared_models, name)() if hasattr(shared_models, name) else sfumato.models.load(name)
    return made


def inputs_of(classifier: Classifier, count: int) -> Iterator[tuple[str, Tensor, int]]:
    """Names, prepared pictures `(1, 3, H, W)` and labels, after the first 100."""
    entries = json.loads((SHARED / "imagenet-val-dev" / "annotations.json").read_text())["images"]
    for entry in entries[100 : 100 + count]:
        picture = pictures.read(SHARED / "imagenet-val-dev" / "images" / entry["file"])
        yield entry["file"], classifier.prepare(picture)[None], entry["label"]


def row_of(classifier: Classifier, inputs: Tensor, method: sfumato.ExtremalPerturbation) -> dict[str, Any]:
    """The claims of one picture, and the area from which on its answer survives."""
    with torch.no_grad():
        answer = int(classifier.net(inputs).argmax())
    begin = time.perf_counter()
    result = method(classifier.net, inputs, answer)
    assert result.masks is not None  # for the type checker
    searched = time.perf_counter()
    (certificate,) = sfumato.Certify()(result, classifier.net, inputs, answer)
    done = time.perf_counter()
    with Subject.prepared(classifier.net, inputs, 0) as subject:
        subject.probe(None)
        same = same_answers(method, subject, result.masks, torch.tensor([answer]))[0].tolist()
    return {
        "area": certificate.area,
        "holds": {finding.claim: finding.holds for finding in certificate.findings},
        "numbers": {finding.claim: dict(finding.numbers) for finding in certificate.findings},
        "passes": certificate.passes,
        "search_seconds": searched - begin,
        "certificate_seconds": done - searched,
        "same": same,
        "survives_from": surviving_area(same, method.areas),
    }


def calibrated(classifier: Classifier, found: Sequence[tuple[str, Tensor, int]]) -> dict[str, Any]:
    """The calibration error of each range of areas on one half of the pictures, before and after calibration on the other."""
    half = len(found) // 2
    batches = [[(inputs, torch.tensor([label])) for _, inputs, label in some] for some in (found[:half], found[half:])]
    fitted = Calibrate()(classifier.net, batches[0])
    judged = Calibrate(seed=1)
    logits, labels = judged.shown(classifier.net, batches[1])
    divisor = torch.tensor(fitted.temperatures, dtype=torch.float64)[:, None, :, None]
    repeated, ranges = labels.repeat(len(logits)), range(len(fitted.edges) - 1)
    errors = [
        [calibration_error(values[:, :, area].flatten(0, 1), repeated) for area in ranges]
        for values in (logits.softmax(3), (logits / divisor).softmax(3))
    ]
    return {"edges": fitted.edges, "before": errors[0], "after": errors[1], "temperatures": fitted.temperatures}


def table(store: Path) -> None:
    """Print what is known of each network."""
    rows = [json.loads(line) for line in store.read_text().splitlines()]
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name and "holds" in row]
        print(
            f"\n{name}, {len(mine)} pictures\n\n| claim | holds | 95 % interval | cannot tell |\n| --- | --- | --- | --- |"
        )
        for claim in mine[0]["holds"] if mine else ():
            known = [row["holds"][claim] for row in mine if row["holds"][claim] is not None]
            low, high = wilson(sum(known) / len(known), len(known)) if known else (0, 1)
            print(f"| {claim} | {sum(known)} of {len(known)} | {low:.2f} to {high:.2f} | {len(mine) - len(known)} |")
        if len(mine) > 1:
            areas = [row["survives_from"] for row in mine]
            covered = [
                area <= Survival((*areas[:place], *areas[place + 1 :]), sfumato.ExtremalPerturbation()).area(0.9)
                for place, area in enumerate(areas)
            ]
            low, high = wilson(sum(covered) / len(covered), len(covered))
            stated = Survival(tuple(areas), sfumato.ExtremalPerturbation()).area(0.9)
            share = f"{sum(covered)} of {len(covered)} ({low:.2f} to {high:.2f})"
            print(f"\nThe answer survives from {stated:.0%} on (90 %); on those left out {share}.")
            times = [statistics.median(row[key] for row in mine) for key in ("search_seconds", "certificate_seconds")]
            passes = statistics.median(row["passes"] for row in mine)
            print(f"Medians: certificate {times[1] / times[0]:.1f} times the search's seconds, {passes:.0f} passes.")
        for row in rows:
            if row["network"] == name and "before" in row:
                pairs = zip(row["edges"][1:], row["before"], row["after"], strict=True)
                print(
                    "Calibration error up to the area: "
                    + "; ".join(f"{edge:g}: {a:.3f} → {b:.3f}" for edge, a, b in pairs)
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--networks", nargs="+", default=["squeezenet", "vit_tiny", "lite0", "resnet50"])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=400, help="pictures for the calibration error; 0 for none")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--table", action="store_true", help="print what is there")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = given.out / "rows.jsonl"
    if not given.table:
        rows = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
        done = {(row["network"], row.get("picture")) for row in rows}
        method = sfumato.ExtremalPerturbation(areas=AREAS, steps=given.steps)
        for name in given.networks:
            classifier = classifier_of(name)

            def keep(row: dict[str, Any], network: str = name) -> None:
                with store.open("a") as stream:
                    stream.write(json.dumps({"network": network, **row}) + "\n")

            if given.calibration and (name, None) not in done:
                keep(calibrated(classifier, list(inputs_of(classifier, given.calibration))))
            for picture, inputs, _ in inputs_of(classifier, given.pictures):
                if (name, picture) not in done:
                    keep({"picture": picture, **row_of(classifier, inputs, method)})
    table(store)


if __name__ == "__main__":
    main()
