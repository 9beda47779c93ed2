"""Masks for annotation tools: masks in the pixels of a picture, written as COCO, LabelMe, CVAT or PNG files."""

from sfumato.figures.annotations.annotation import Annotation, annotated
from sfumato.figures.annotations.coco import as_coco
from sfumato.figures.annotations.cvat import as_cvat
from sfumato.figures.annotations.labelme import as_labelme
from sfumato.figures.annotations.png import as_png
from sfumato.figures.annotations.writing import write

__all__ = ["Annotation", "annotated", "as_coco", "as_cvat", "as_labelme", "as_png", "write"]
