"""How an annotation's pixels are written: as a mask, or as polygons along their borders."""

from collections.abc import Iterable

from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.outlines import Point, is_hole, outlines, polygons

FORMS = ("mask", "polygons", "either")


def drawn(annotation: Annotation, form: str) -> list[list[Point]] | None:
    """The polygons of an annotation, or `None` where it is to be a mask: with "either", where it has holes."""
    if form not in FORMS:
        raise ValueError(f"form must be 'mask', 'polygons' or 'either'; got {form!r}")
    if form == "mask":
        return None
    mask = annotation.mask.numpy()
    if form == "polygons":
        return polygons(mask)
    found = outlines(mask)
    return None if any(map(is_hole, found)) else found


def by_picture(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    """Annotations by their pictures, in order. Raises `ValueError` where there are none, or a picture has two sizes."""
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
        raise ValueError("there is no annotation to write; expected at least one")
    return groups
