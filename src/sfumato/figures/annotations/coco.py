"""COCO's instances (Lin et al., ECCV 2014), which pycocotools and `sfumato.data.COCO` read."""

from collections.abc import Iterable, Sequence
from typing import Any

from sfumato.about import versions
from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.forms import by_picture, drawn
from sfumato.figures.annotations.run_lengths import compressed, lengths


def as_coco(
    annotations: Iterable[Annotation], form: str = "either", labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """The contents of an instances file, of one picture or several.

    `form` is "mask" (compressed runs), "polygons", or "either": polygons, save for masks with holes, which COCO's polygons
    cannot have; asked for polygons, such masks are cut into pieces without. All of them are exact to the pixel.

    A category's id is the class's index plus 1, as 0 means no category to some readers. Listed are the classes that occur,
    or with `labels` all of the model's: then classes keep their indices in `sfumato.data.COCO`, which counts what is listed.

    Each annotation's `attributes` say where it is from; what they all say is in `info` too.
    """
    pictures = by_picture(annotations)
    numbered = {name: index for index, name in enumerate(pictures, 1)}
    every = [annotation for group in pictures.values() for annotation in group]
    names = {annotation.label: annotation.name for annotation in every} if labels is None else dict(enumerate(labels))
    for annotation in every:
        if names.get(annotation.label) != annotation.name:
            known = names.get(annotation.label)
            raise ValueError(
                f"class {annotation.label} is {annotation.name!r} in an annotation and {known!r} elsewhere"
            )
    shared = {
        key: value for key, value in every[0].about.items() if all(each.about.get(key) == value for each in every)
    }
    own = versions()["sfumato"]
    return {
        "info": {"description": "Masks of what a network needs to see", "version": own, "contributor": "sfumato"}
        | shared,
        "licenses": [],
        "images": [
            {"id": numbered[name], "file_name": name, "width": group[0].size[0], "height": group[0].size[1]}
            for name, group in pictures.items()
        ],
        "categories": [{"id": label + 1, "name": names[label], "supercategory": ""} for label in sorted(names)],
        "annotations": [
            _entry(annotation, form) | {"id": index, "image_id": numbered[annotation.picture]}
            for index, annotation in enumerate(every, 1)
        ],
    }


def _entry(annotation: Annotation, form: str) -> dict[str, Any]:
    left, top, right, bottom = annotation.box
    return {
        "category_id": annotation.label + 1,
        "segmentation": _segmentation(annotation, form),
        "area": int(annotation.mask.count_nonzero()),
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
        "attributes": dict(annotation.about),
    }


def _segmentation(annotation: Annotation, form: str) -> dict[str, Any] | list[list[int]]:
    polygons = drawn(annotation, form)
    if polygons is None:
        width, height = annotation.size
        counts = lengths(annotation.mask.numpy().flatten(order="F"))
        return {"size": [height, width], "counts": compressed(counts)}
    return [[number for point in polygon for number in point] for polygon in polygons]
