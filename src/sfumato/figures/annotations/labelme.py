"""LabelMe's JSON (github.com/wkentaro/labelme), a file for each picture."""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any

from PIL import Image

from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.forms import by_picture, drawn

VERSION = "5.5.0"
"""Of LabelMe: its files have masks and descriptions."""


def as_labelme(annotations: Iterable[Annotation], form: str = "mask") -> dict[str, Any]:
    """The contents of the file for one picture, which is not inside: LabelMe looks for it beside the file.

    `form` is "mask", "polygons" or "either", as for `as_coco`. The points of polygons are exact, but LabelMe, when it makes
    pixels of a polygon, adds those that the outline itself runs through; masks stay as they are. The pieces of one mask have
    the same `group_id`.

    A shape's `description` is JSON of where it is from. Raises `ValueError` for annotations of several pictures.
    """
    pictures = by_picture(annotations)
    if len(pictures) > 1:
        raise ValueError(f"a LabelMe file is of one picture; got {', '.join(map(repr, pictures))}: write one for each")
    ((name, group),) = pictures.items()
    width, height = group[0].size
    return {
        "version": VERSION,
        "flags": {"sfumato": True},
        "shapes": [shape for index, each in enumerate(group, 1) for shape in _shapes(each, form, index)],
        "imagePath": name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shapes(annotation: Annotation, form: str, group: int) -> list[dict[str, Any]]:
    about = json.dumps(dict(annotation.about), ensure_ascii=False, allow_nan=False)
    shape = {"label": annotation.name, "group_id": group, "description": about, "flags": {}}
    polygons = drawn(annotation, form)
    if polygons is None:
        left, top, right, bottom = annotation.box
        corners = [[left, top], [right - 1, bottom - 1]]  # both inside
        return [shape | {"points": corners, "shape_type": "mask", "mask": _cropped(annotation)}]
    return [
        shape | {"points": [list(point) for point in polygon], "shape_type": "polygon", "mask": None}
        for polygon in polygons
    ]


def _cropped(annotation: Annotation) -> str:
    """A PNG file of the box's pixels, in base 64."""
    left, top, right, bottom = annotation.box
    content = io.BytesIO()
    Image.fromarray(annotation.mask[top:bottom, left:right].numpy()).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")
