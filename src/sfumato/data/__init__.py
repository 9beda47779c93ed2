"""Data sets, one file a source: pictures with their classes, and where these are."""

from sfumato.data.annotated import Annotated
from sfumato.data.coco import COCO
from sfumato.data.difficult import Listed
from sfumato.data.example import Data, Example, Run, Thing
from sfumato.data.folder import Folder
from sfumato.data.imagenet import ImageNet
from sfumato.data.masked import Masked
from sfumato.data.subset import Subset
from sfumato.data.table import Table
from sfumato.data.truth import Truth, truth
from sfumato.data.voc import VOC

__all__ = [
    "COCO",
    "VOC",
    "Annotated",
    "Data",
    "Example",
    "Folder",
    "ImageNet",
    "Listed",
    "Masked",
    "Run",
    "Subset",
    "Table",
    "Thing",
    "Truth",
    "truth",
]
