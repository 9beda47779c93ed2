"""Annotations as LabelMe's JSON (github.com/wkentaro/labelme), a file for each picture."""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any

from PIL import Image

from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.forms import by_picture, polygons_or_mask

VERSION = "5.5.0"
"""The version of LabelMe, whose files have masks and descriptions."""


def as_labelme(annotations: Iterable[Annotation], form: str = "mask") -> dict[str, Any]:
    """The content of the file for one picture. LabelMe looks for the picture in the same folder.

    `form` is "mask", "polygons" or "either", as for `as_coco`. The points of polygons are exact, but LabelMe also counts
    the pixels on the outline when it fills a polygon; masks stay as they are. The pieces of one mask have the same `group_id`.

    The `description` of a shape says how it was made, as JSON. Raises `ValueError` for annotations of several pictures, and as
    `by_picture`.
    """
    pictures = by_picture(annotations)
    if len(pictures) > 1:
        raise ValueError(f"a LabelMe file is of one picture; got {', '.join(map(repr, pictures))}: write one for each")
    ((name, group),) = pictures.items()
    width, height = group[0].size
    return {
        "version": VERSION,
        "flags": {"sfumato": True},
        "shapes": [shape for index, annotation in enumerate(group, 1) for shape in _shapes(annotation, form, index)],
        "imagePath": name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shapes(annotation: Annotation, form: str, group_id: int) -> list[dict[str, Any]]:
    """The shapes of an annotation: a mask, or its polygons."""
    about = json.dumps(dict(annotation.about), ensure_ascii=False, allow_nan=False)
    shape = {"label": annotation.name, "group_id": group_id, "description": about, "flags": {}}
    polygons = polygons_or_mask(annotation, form)
    if polygons is None:
        left, top, right, bottom = annotation.box
        corners = [[left, top], [right - 1, bottom - 1]]  # the first and the last pixel of the box
        return [shape | {"points": corners, "shape_type": "mask", "mask": _crop(annotation)}]
    return [
        shape | {"points": [list(point) for point in polygon], "shape_type": "polygon", "mask": None}
        for polygon in polygons
    ]


def _crop(annotation: Annotation) -> str:
    """The mask in its box as a PNG file, in base 64."""
    left, top, right, bottom = annotation.box
    content = io.BytesIO()
    Image.fromarray(annotation.mask[top:bottom, left:right].numpy()).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")
