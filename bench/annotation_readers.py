"""What other programs read in the files of annotations: LabelMe its own, Datumaro CVAT's and COCO's, and OpenCV masks.

`python bench/annotation_readers.py`, in an environment with labelme, datumaro and sfumato; no data is needed. Masks are random
blots, with holes, with many pieces, and with single pixels. It prints for how many the reader finds the same pixels, class and
provenance, and the smallest overlap; its status is 1 where anything differs but LabelMe's polygons, whose outlines count as
inside when it makes pixels of them.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.figures.annotations import Annotation, as_coco, as_cvat, as_labelme, as_png, write

SIZE = 61, 47  # width, height
LABELS = ("tench, Tinca tinca", 'żółw & <co> "x"', "cat")
FORMS = ("mask", "polygons", "either")

Found = tuple[np.ndarray, str, dict[str, Any]]
"""The pixels, the class and the provenance of one annotation."""


def blots(count: int) -> list[Annotation]:
    """Random masks, from smooth to torn, two for each picture."""
    random = torch.Generator().manual_seed(0)
    annotations = []
    for index in range(count):
        width, height = SIZE
        noise = torch.rand(1, 1, height, width, generator=random)
        side = (1, 3, 9, 15)[index % 4]
        smooth = torch.nn.functional.avg_pool2d(noise, side, 1, side // 2, count_include_pad=False)[0, 0]
        mask = smooth >= smooth.flatten().quantile(float(torch.rand((), generator=random)))
        label = index % len(LABELS)
        about = {"model": "ż", "method": {"areas": [0.1]}, "area_asked": None, "score_kept": 0.1 * index, "level": 0.5}
        annotations.append(Annotation(f"picture {index // 2}.png", label, LABELS[label], mask, about))
    return annotations


def by_datumaro(
    given: list[Annotation], folder: Path, kind: str, content: Any, text: Callable[[Any], Any]
) -> list[Found]:
    """Through Datumaro, which makes the pixels of polygons with pycocotools."""
    from datumaro.components.dataset import Dataset

    images, file, name = {
        "COCO": ("images/default", "annotations/instances_default.json", "coco_instances"),
        "CVAT": ("images", "default.xml", "cvat"),
    }[kind]
    for each in (images, Path(file).parent):
        (folder / each).mkdir(parents=True, exist_ok=True)
    for each in given:
        Image.new("RGB", SIZE).save(folder / images / each.picture)
    write(content, folder / file)
    dataset = Dataset.import_from(str(folder), name).transform("polygons_to_masks")
    names = [each.name for each in next(iter(dataset.categories().values())).items]
    found: dict[int, Found] = {}
    for item in dataset:
        for shape in item.annotations:
            if shape.type.name != "mask":
                continue  # COCO's boxes
            before = found.get(shape.group, (False,))[0]
            about = {key: value for key, value in shape.attributes.items() if key not in ("occluded", "is_crowd")}
            pixels = np.asarray(shape.image, dtype=bool)
            found[shape.group] = (before | pixels, names[shape.label], {key: text(each) for key, each in about.items()})
    return [found[group] for group in sorted(found)]


def coco(given: list[Annotation], folder: Path, form: str) -> list[Found]:
    return by_datumaro(given, folder, "COCO", as_coco(given, form, LABELS), lambda value: value)


def cvat(given: list[Annotation], folder: Path, form: str) -> list[Found]:
    def read(value: str) -> Any:
        try:
            return json.loads(value) if value else None
        except json.JSONDecodeError:
            return value

    return by_datumaro(given, folder, "CVAT", as_cvat(given, form), read)


def labelme(given: list[Annotation], folder: Path, form: str) -> Iterator[Found]:
    from labelme._label_file import read_label_file
    from labelme.utils import shapes_to_label

    for picture in dict.fromkeys(each.picture for each in given):
        Image.new("RGB", SIZE).save(folder / picture)
        path = folder / f"{picture}.json"
        write(as_labelme([each for each in given if each.picture == picture], form), path)
        shapes = read_label_file(str(path)).shapes
        for group in dict.fromkeys(shape["group_id"] for shape in shapes):
            pieces = [shape for shape in shapes if shape["group_id"] == group]
            name = pieces[0]["label"]
            pixels, _ = shapes_to_label(SIZE[::-1], pieces, {name: 1})
            yield pixels == 1, name, json.loads(pieces[0]["description"])


def png(given: list[Annotation], folder: Path, form: str) -> Iterator[Found]:
    import cv2

    for each in given:
        write(as_png(each), folder / "mask.png")
        yield cv2.imread(str(folder / "mask.png"), cv2.IMREAD_UNCHANGED) == 255, each.name, dict(each.about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=48)
    given = blots(parser.parse_args().masks)
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")  # else LabelMe names every picture that it reads
    failed = False
    print(f"{'file':<9}{'form':<10}{'reader':<38}same pixels  smallest overlap  same class, provenance")
    for reader, distribution in (
        (coco, "datumaro"),
        (cvat, "datumaro"),
        (labelme, "labelme"),
        (png, "opencv-python-headless"),
    ):
        for form in FORMS if reader is not png else FORMS[:1]:
            with tempfile.TemporaryDirectory() as folder:
                found = list(reader(given, Path(folder), form))
            overlaps = [
                (pixels & each.mask.numpy()).sum() / (pixels | each.mask.numpy()).sum()
                for (pixels, _, _), each in zip(found, given, strict=True)
            ]
            same = sum(overlap == 1 for overlap in overlaps)
            told = sum(
                (name, about) == (each.name, each.about) for (_, name, about), each in zip(found, given, strict=True)
            )
            version = f"{distribution} {metadata.version(distribution)}"
            print(
                f"{reader.__name__:<9}{form:<10}{version:<38}{same:>2} of {len(given)}     {min(overlaps):<18.4f}{told}"
            )
            exact = (reader, form) not in ((labelme, "polygons"), (labelme, "either"))
            failed |= told < len(given) or (exact and same < len(given))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
