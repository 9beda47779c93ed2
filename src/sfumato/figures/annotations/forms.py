"""The forms of an annotation's pixels: a mask, or polygons along the borders of the pixels."""

from collections.abc import Iterable

from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.outlines import Point, is_hole, outlines, polygons

FORMS = ("mask", "polygons", "either")


def polygons_or_mask(annotation: Annotation, form: str) -> list[list[Point]] | None:
    """The polygons of an annotation, or `None` if it should be a mask. With "either", a mask is used if there are holes."""
    if form not in FORMS:
        raise ValueError(f"form must be 'mask', 'polygons' or 'either'; got {form!r}")
    if form == "mask":
        return None
    mask = annotation.mask.numpy()
    if form == "polygons":
        return polygons(mask)
    lines = outlines(mask)
    return None if any(map(is_hole, lines)) else lines


def by_picture(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    """The annotations of each picture, in order. Raises `ValueError` if there are none, or a picture has two sizes."""
    groups: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        group = groups.setdefault(annotation.picture, [])
        if group and group[0].size != annotation.size:
            raise ValueError(
                f"picture {annotation.picture!r} is {group[0].size} pixels large in one annotation and {annotation.size} "
                "in another; give different pictures different names"
            )
        group.append(annotation)
    if not groups:
        raise ValueError("there are no annotations; expected at least one")
    return groups
