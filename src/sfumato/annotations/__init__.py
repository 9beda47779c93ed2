"""Masks for annotation tools: brought to a picture's own pixels, and written as COCO, LabelMe, CVAT or PNG files."""

from sfumato.annotations.annotation import Annotation, annotated
from sfumato.annotations.coco import as_coco
from sfumato.annotations.cvat import as_cvat
from sfumato.annotations.labelme import as_labelme
from sfumato.annotations.png import as_png
from sfumato.annotations.writing import write

__all__ = ["Annotation", "annotated", "as_coco", "as_cvat", "as_labelme", "as_png", "write"]
