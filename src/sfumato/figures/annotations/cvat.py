"""Annotations as CVAT for images 1.1, an XML file of one picture or several (docs.cvat.ai, "XML annotation format")."""

import json
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as ET

from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.forms import by_picture, polygons_or_mask
from sfumato.figures.annotations.run_lengths import lengths


def as_cvat(annotations: Iterable[Annotation], form: str = "either") -> str:
    """The text of the XML file.

    `form` is "mask", "polygons" or "either", as for `as_coco`. The pieces of one mask have the same `group_id`.

    The attributes of a shape say how it was made. CVAT keeps the attributes that the labels of the task have. The file lists
    them under `labels`, as texts. Raises `ValueError` as `by_picture`.
    """
    pictures = by_picture(annotations)
    root = ET.Element("annotations")
    _text(root, "version", "1.1")
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    _text(task, "name", "sfumato")
    _text(task, "size", len(pictures))
    _text(task, "mode", "annotation")
    attributes: dict[str, dict[str, None]] = {}  # of each class, in order; dicts serve as ordered sets
    for annotation in (annotation for group in pictures.values() for annotation in group):
        attributes.setdefault(annotation.name, {}).update(dict.fromkeys(annotation.about))
    labels = ET.SubElement(task, "labels")
    for name, keys in attributes.items():
        _label(labels, name, keys)
    group_id = 0
    for index, (name, group) in enumerate(pictures.items()):
        width, height = group[0].size
        image = ET.SubElement(root, "image", id=str(index), name=name, width=str(width), height=str(height))
        for annotation in group:
            group_id += 1
            for shape in _shapes(annotation, form):
                shape.set("group_id", str(group_id))
                image.append(shape)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _label(parent: ET.Element, name: str, keys: Iterable[str]) -> None:
    """Add the label of a class, with the names of its attributes."""
    label = ET.SubElement(parent, "label")
    _text(label, "name", name)
    attributes = ET.SubElement(label, "attributes")
    for key in keys:
        attribute = ET.SubElement(attributes, "attribute")
        for tag, value in (
            ("name", key),
            ("mutable", False),
            ("input_type", "text"),
            ("default_value", ""),
            ("values", ""),
        ):
            _text(attribute, tag, value)


def _shapes(annotation: Annotation, form: str) -> list[ET.Element]:
    """The elements of an annotation: a mask, or its polygons."""
    polygons = polygons_or_mask(annotation, form)
    if polygons is None:
        shapes = [ET.Element("mask", _runs(annotation))]
    else:
        point_lists = (";".join(f"{x},{y}" for x, y in polygon) for polygon in polygons)
        shapes = [ET.Element("polygon", {"points": points}) for points in point_lists]
    for shape in shapes:
        for key, value in (("label", annotation.name), ("source", "auto"), ("occluded", "0"), ("z_order", "0")):
            shape.set(key, value)
        for key, value in annotation.about.items():
            _text(shape, "attribute", _as_text(value)).set("name", key)
    return shapes


def _runs(annotation: Annotation) -> dict[str, str]:
    """The box of a mask, and the lengths of runs along the rows in it; the first run is outside the mask."""
    left, top, right, bottom = annotation.box
    inside = annotation.mask[top:bottom, left:right].numpy()
    return {
        "rle": ", ".join(map(str, lengths(inside.flatten()))),
        "left": str(left),
        "top": str(top),
        "width": str(right - left),
        "height": str(bottom - top),
    }


def _as_text(value: Any) -> str:
    """A value as text: a string as it is, `None` as an empty string, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _text(parent: ET.Element, tag: str, value: object) -> ET.Element:
    """Add an element with a text."""
    element = ET.SubElement(parent, tag)
    element.text = str(value)
    return element
