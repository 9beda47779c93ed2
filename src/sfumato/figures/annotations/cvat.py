"""CVAT for images 1.1: an XML file of one picture or several (docs.cvat.ai, "XML annotation format")."""

import json
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as ET

from sfumato.figures.annotations.annotation import Annotation
from sfumato.figures.annotations.forms import by_picture, drawn
from sfumato.figures.annotations.run_lengths import lengths


def as_cvat(annotations: Iterable[Annotation], form: str = "either") -> str:
    """The XML file's text.

    `form` is "mask", "polygons" or "either", as for `as_coco`. The pieces of one mask have the same `group_id`.

    Attributes of each shape say where it is from. CVAT keeps those that the task's labels have: the file's `labels` lists
    them, as texts.
    """
    pictures = by_picture(annotations)
    root = ET.Element("annotations")
    _text(root, "version", "1.1")
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    _text(task, "name", "sfumato")
    _text(task, "size", len(pictures))
    _text(task, "mode", "annotation")
    every = [annotation for group in pictures.values() for annotation in group]
    labels = ET.SubElement(task, "labels")
    for name in dict.fromkeys(annotation.name for annotation in every):
        _label(labels, name, dict.fromkeys(key for each in every if each.name == name for key in each.about))
    group = 0
    for index, (name, shown) in enumerate(pictures.items()):
        width, height = shown[0].size
        image = ET.SubElement(root, "image", id=str(index), name=name, width=str(width), height=str(height))
        for annotation in shown:
            group += 1
            for shape in _shapes(annotation, form):
                shape.set("group_id", str(group))
                image.append(shape)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _label(parent: ET.Element, name: str, attributes: Iterable[str]) -> None:
    label = ET.SubElement(parent, "label")
    _text(label, "name", name)
    listed = ET.SubElement(label, "attributes")
    for each in attributes:
        attribute = ET.SubElement(listed, "attribute")
        for tag, value in (
            ("name", each),
            ("mutable", False),
            ("input_type", "text"),
            ("default_value", ""),
            ("values", ""),
        ):
            _text(attribute, tag, value)


def _shapes(annotation: Annotation, form: str) -> list[ET.Element]:
    polygons = drawn(annotation, form)
    if polygons is None:
        shapes = [ET.Element("mask", _runs(annotation))]
    else:
        points = (";".join(f"{x},{y}" for x, y in polygon) for polygon in polygons)
        shapes = [ET.Element("polygon", {"points": each}) for each in points]
    for shape in shapes:
        for key, value in (("label", annotation.name), ("source", "auto"), ("occluded", "0"), ("z_order", "0")):
            shape.set(key, value)
        for key, value in annotation.about.items():
            _text(shape, "attribute", _plain(value)).set("name", key)
    return shapes


def _runs(annotation: Annotation) -> dict[str, str]:
    """The box, and the runs along its rows, which begin with those outside the mask."""
    left, top, right, bottom = annotation.box
    inside = annotation.mask[top:bottom, left:right].numpy()
    return {
        "rle": ", ".join(map(str, lengths(inside.flatten()))),
        "left": str(left),
        "top": str(top),
        "width": str(right - left),
        "height": str(bottom - top),
    }


def _plain(value: Any) -> str:
    """A value as text: JSON, but for texts themselves, and nothing for `None`."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _text(parent: ET.Element, tag: str, value: object) -> ET.Element:
    element = ET.SubElement(parent, tag)
    element.text = str(value)
    return element
