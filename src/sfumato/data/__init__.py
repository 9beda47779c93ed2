"""Data sets, one file for each source: pictures, their classes, and where in the picture the classes are.

`example.py` says what an example is, `listing.py` is the base of the data sets, `truth.py` makes pixels of annotations.
`reading.py` reads annotation files, `pictures.py` picture files. `subset.py` and `difficult.py` wrap another data set.
"""

from sfumato.data.annotated import Annotated as Annotated
from sfumato.data.coco import COCO as COCO
from sfumato.data.difficult import Listed as Listed
from sfumato.data.example import Data as Data
from sfumato.data.example import Example as Example
from sfumato.data.example import Run as Run
from sfumato.data.example import Thing as Thing
from sfumato.data.folder import Folder as Folder
from sfumato.data.imagenet import ImageNet as ImageNet
from sfumato.data.masked import Masked as Masked
from sfumato.data.planted import Planted as Planted
from sfumato.data.scenes import Scenes as Scenes
from sfumato.data.subset import Subset as Subset
from sfumato.data.table import Table as Table
from sfumato.data.truth import Truth as Truth
from sfumato.data.truth import truth as truth
from sfumato.data.voc import VOC as VOC
from sfumato.settings import public_names

vars().update(__all__=public_names(vars()))  # out of sight of type checkers, which read the lines above
