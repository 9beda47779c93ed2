"""ImageNet's localisation task (ILSVRC 2012; Russakovsky et al., IJCV 2015), unpacked from its own or Kaggle's archives."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree as ET

from sfumato.data import reading
from sfumato.data.example import Box, Example, Thing
from sfumato.data.listing import Listing, set_paths_
from sfumato.data.pictures import EXTENSIONS
from sfumato.data.voc import size_of

SYNSETS = ("LOC_synset_mapping.txt", "map_clsloc.txt", "synset_words.txt", "synsets.txt")
TRUTHS = ("LOC_{split}_solution.csv", "ILSVRC2012_validation_ground_truth.txt")
ROOTS = ("", "ILSVRC/", "ILSVRC2012_devkit_t12/data/")


@dataclass(frozen=True)
class ImageNet(Listing):
    """The pictures of one part, with their boxes. The index of a class is its place among the sorted WordNet ids.

    The class of a picture comes from the first of these: the picture's folder, if folders are named by WordNet ids; the ground
    truth; the file of boxes. A picture without boxes has only a class. The files count whole pixels from 0 and include the last
    row and column of a box; here the right and bottom edges are outside.
    """

    path: str
    """The folder that contains `ILSVRC`, or `Data` and `Annotations`. The paths below are relative to it."""
    split: str = "val"
    pictures: str = ""
    """A folder of pictures, or of folders named by WordNet ids.

    By default `Data/CLS-LOC/SPLIT`, `ILSVRC2012_img_SPLIT` or `SPLIT`.
    """
    boxes: str = ""
    """A folder of XML files in the layout of the pictures. By default `Annotations/CLS-LOC/SPLIT`, if there is one."""
    labels: str = ""
    """The ground truth: Kaggle's `LOC_SPLIT_solution.csv`, or a text file with one line for each picture, sorted by name.
    A line is a WordNet id, or the development kit's number of the class (then `synsets` must be `map_clsloc.txt`)."""
    synsets: str = ""
    """The classes, one on each line: a WordNet id and names. In `map_clsloc.txt`: a WordNet id, the kit's number and a name."""

    def __post_init__(self) -> None:
        set_paths_(self, "path", "pictures", "boxes", "labels", "synsets")
        if not (isinstance(self.split, str) and self.split):
            raise ValueError(f"split must be the name of a part such as 'train' or 'val'; got {self.split!r}")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._synsets[wnid][0] for wnid in sorted(self._synsets))

    @property
    def sources(self) -> list[Path]:
        truth = [] if self._truth_file is None else [self._truth_file]
        boxes = [] if self._boxes is None else reading.tree(self._boxes, ".xml")
        return [self._synsets_file, *truth, *reading.tree(self._folder), *boxes]

    def __len__(self) -> int:
        return len(self._files)

    def example(self, index: int) -> Example:
        subfolder, file = self._files[index]
        path = self._folder / subfolder / file
        annotation = self._annotation(subfolder, path.stem)
        answer = self._truth.get(path.stem) or ([subfolder] if subfolder else [])
        things, size = [], None
        if annotation is not None:
            root = reading.xml(annotation)
            things, size = _things(annotation, root, self._indices), size_of(root)
        if answer:
            things += self._more_things(path.name, [subfolder or answer[0], *answer[1:]], things)
        if not things:
            raise ValueError(
                f"{path.name!r} has no class; expected one in a ground truth (labels=…) or in an XML file (boxes=…)"
            )
        return Example(f"{subfolder}/{path.stem}" if subfolder else path.stem, path, tuple(things), size)

    def _more_things(self, picture: str, answer: list[str], boxed: list[Thing]) -> list[Thing]:
        """The things in the ground truth, if their class is not among the things from a file of boxes."""
        try:
            label = reading.index_of(answer[0], self._indices)
            if any(thing.label == label for thing in boxed):
                return []
            return [Thing(label, box) for box in _boxes_in(answer)] or [Thing(label)]
        except ValueError as error:
            raise ValueError(f"the ground truth of picture {picture!r}: {error}") from None

    def _annotation(self, subfolder: str, stem: str) -> Path | None:
        folder = self._boxes
        if folder is None:
            return None
        candidates = [folder / subfolder / f"{stem}.xml", folder / f"{stem}.xml"]
        return next((path for path in candidates if path.is_file()), None)

    @cached_property
    def _folder(self) -> Path:
        usual = [
            f"ILSVRC/Data/CLS-LOC/{self.split}",
            f"Data/CLS-LOC/{self.split}",
            f"ILSVRC2012_img_{self.split}",
            self.split,
        ]
        return reading.folder(self.path, [self.pictures] if self.pictures else usual, "pictures")

    @cached_property
    def _boxes(self) -> Path | None:
        if self.boxes:
            return reading.folder(self.path, [self.boxes], "boxes")
        usual = (f"{root}Annotations/CLS-LOC/{self.split}" for root in ROOTS[:2])
        return next((path for name in usual if (path := Path(self.path, name)).is_dir()), None)

    @cached_property
    def _files(self) -> list[tuple[str, str]]:
        """The subfolder, empty if there is none, and the file name of each picture."""
        entries = reading.entries(self._folder)
        files = [("", path.name) for path in entries if path.suffix.lower() in EXTENSIONS]
        for subfolder in () if files else [path for path in entries if path.is_dir()]:
            names = [path.name for path in reading.entries(subfolder) if path.suffix.lower() in EXTENSIONS]
            files += [(subfolder.name, name) for name in names]
        if not files:
            raise ValueError(f"folder {str(self._folder)!r} holds no pictures; expected .JPEG files or folders of them")
        return files

    @property
    def _synsets_file(self) -> Path:
        candidates = [self.synsets] if self.synsets else [root + name for root in ROOTS for name in SYNSETS]
        return reading.file(self.path, candidates, "list of classes")

    @cached_property
    def _synsets(self) -> dict[str, tuple[str, int | None]]:
        """For each WordNet id, the name of the class and its number in the development kit."""
        path = self._synsets_file
        rows = [(number, line.split(maxsplit=2)) for number, line in enumerate(reading.lines(path), 1) if line.strip()]
        kit = all(len(row) == 3 and row[1].isdecimal() for _, row in rows)
        synsets: dict[str, tuple[str, int | None]] = {}
        for number, row in rows:
            if row[0] in synsets:
                raise ValueError(
                    f"{str(path)!r}, line {number}: {row[0]!r} is there twice; expected one line for each class"
                )
            name = row[2].replace("_", " ") if kit else " ".join(row[1:]) or row[0]
            synsets[row[0]] = (name, int(row[1]) if kit else None)
        if not synsets:
            raise ValueError(f"{str(path)!r} is empty; expected a WordNet id and names on each line")
        return synsets

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {wnid: index for index, wnid in enumerate(sorted(self._synsets))}

    @property
    def _truth_file(self) -> Path | None:
        if self.labels:
            return reading.file(self.path, [self.labels], "ground truth")
        usual = (Path(self.path, root + name.format(split=self.split)) for root in ROOTS for name in TRUTHS)
        return next((path for path in usual if path.is_file()), None)

    @cached_property
    def _truth(self) -> dict[str, list[str]]:
        """For each picture, the words of the ground truth: a WordNet id, or boxes as "wnid left top right bottom wnid …"."""
        path = self._truth_file
        if path is None:
            return {}
        lines = reading.lines(path)
        if path.suffix.lower() == ".csv":
            pairs = (line.partition(",") for line in lines[1:])
            return {name: words.split() for name, _, words in pairs if words.strip()}
        return {
            Path(file).stem: [wnid]
            for (_, file), wnid in zip(self._files, self._answers(path, [*filter(None, lines)]), strict=True)
        }

    def _answers(self, path: Path, answers: list[str]) -> list[str]:
        """The WordNet id of each picture, from lines with a WordNet id or with a number of the development kit."""
        if len(answers) != len(self):
            raise ValueError(
                f"{str(path)!r} has {len(answers)} answers for {len(self)} pictures; expected one for each"
            )
        by_number = {str(number): wnid for wnid, (_, number) in self._synsets.items()}
        if answers[0].isdecimal() and answers[0] not in by_number:
            raise ValueError(
                f"{str(path)!r} has the development kit's numbers of classes; give the kit's map_clsloc.txt as synsets"
            )
        return [by_number.get(answer, answer) for answer in answers]


def _boxes_in(words: list[str]) -> list[Box]:
    """The boxes in the words "wnid left top right bottom wnid …"."""
    if len(words) == 1:
        return []
    try:
        return [_box(*map(float, words[start + 1 : start + 5])) for start in range(0, len(words), 5)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error}; expected a WordNet id and four numbers for each box") from None


def _things(path: Path, root: ET.Element, indices: dict[str, int]) -> list[Thing]:
    things = []
    for position, element in enumerate(root.iterfind("object"), 1):
        corners = element.find("bndbox")
        try:
            label = reading.index_of((element.findtext("name") or "").strip(), indices)
            edges = [reading.number(corners, edge) for edge in ("xmin", "ymin", "xmax", "ymax")]
            things.append(Thing(label, _box(*edges)))
        except ValueError as error:
            raise ValueError(f"{str(path)!r}, object {position}: {error}") from None
    return things


def _box(left: float, top: float, right: float, bottom: float) -> Box:
    return reading.box(left, top, right + 1, bottom + 1)
