"""Annotations as COCO's instances (Lin et al., ECCV 2014), which pycocotools and `sfumato.data.COCO` read."""

from collections.abc import Iterable, Sequence
from typing import Any

from sfumato.about import versions
from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.forms import by_picture, polygons_or_mask
from sfumato.figures.annotations.run_lengths import compress, lengths


def as_coco(
    annotations: Iterable[Annotation], form: str = "either", labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """The content of an instances file, of one picture or several.

    `form` is "mask" (compressed runs), "polygons", or "either": polygons for masks without holes, runs for the others, as
    polygons of COCO cannot have holes. With "polygons", a mask with holes is cut into pieces without holes. All forms are
    exact to the pixel.

    The id of a category is the index of the class plus 1, as 0 means no category to some readers. The categories are the
    classes that occur, or with `labels` all classes of the model. Then `sfumato.data.COCO`, which counts the categories,
    gives the classes the same indices.

    The `attributes` of an annotation say how it was made. Those that all annotations share are in `info` too. Raises
    `ValueError` if a class has two names, and as `by_picture`.
    """
    pictures = by_picture(annotations)
    picture_ids = {name: index for index, name in enumerate(pictures, 1)}
    ordered = [annotation for group in pictures.values() for annotation in group]
    names = {annotation.label: annotation.name for annotation in ordered} if labels is None else dict(enumerate(labels))
    for annotation in ordered:
        if names.get(annotation.label) != annotation.name:
            raise ValueError(
                f"class {annotation.label} is {annotation.name!r} in an annotation and {names.get(annotation.label)!r} "
                "elsewhere; give annotations of one model, and its labels"
            )
    shared = {
        key: value
        for key, value in ordered[0].about.items()
        if all(annotation.about.get(key) == value for annotation in ordered)
    }
    version = versions()["sfumato"]
    return {
        "info": {"description": "Masks of what a network needs to see", "version": version, "contributor": "sfumato"}
        | shared,
        "licenses": [],
        "images": [
            {"id": picture_ids[name], "file_name": name, "width": group[0].size[0], "height": group[0].size[1]}
            for name, group in pictures.items()
        ],
        "categories": [{"id": label + 1, "name": names[label], "supercategory": ""} for label in sorted(names)],
        "annotations": [
            _entry(annotation, form) | {"id": index, "image_id": picture_ids[annotation.picture]}
            for index, annotation in enumerate(ordered, 1)
        ],
    }


def _entry(annotation: Annotation, form: str) -> dict[str, Any]:
    """The entry of an annotation, without its ids."""
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
    """The runs of a mask, column by column, or the coordinates of its polygons."""
    polygons = polygons_or_mask(annotation, form)
    if polygons is None:
        width, height = annotation.size
        counts = lengths(annotation.mask.numpy().flatten(order="F"))
        return {"size": [height, width], "counts": compress(counts)}
    return [[number for point in polygon for number in point] for polygon in polygons]
