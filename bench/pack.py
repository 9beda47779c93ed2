"""Pack a plan with the weights and pictures that it needs, to run it on another machine: `python bench/pack.py PLAN FOLDER`.

What lies under the folder that SFUMATO_SHARED names, and is opened to load the plan's models and data sets or shown by one of
its examples, is copied under the same names; the plan names these files as $SFUMATO_SHARED/…. It is refused if it needs others.
On the other machine, in a checkout of the same commit:

    SFUMATO_SHARED=FOLDER/data PYTHONPATH=src:bench python -m sfumato bench run FOLDER/plan.toml --out FOLDER/run

Then copy FOLDER/run back, and take its rows: `sfumato bench merge RUN FOLDER/run --adopt`. (`--adopt`, as another version of
torch or another device computed them.)
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared_models import SHARED

from sfumato.data import Example
from sfumato.data.example import Data
from sfumato.data.plain import files
from sfumato.runs.plans import plan as plans
from sfumato.runs.plans.plan import Plan
from sfumato.runs.work.workbench import Workbench

OPENED: list[set[Path]] = []
"""Where files are noted that are opened, while somebody asks."""


def note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        for opened in OPENED:
            opened.add(Path(arguments[0]).resolve())


@contextmanager
def opened_files() -> Iterator[set[Path]]:
    """The files that Python opens until the block ends."""
    opened: set[Path] = set()
    OPENED.append(opened)
    try:
        yield opened
    finally:
        OPENED.remove(opened)


sys.addaudithook(note)


def readable(data: Data) -> Iterator[Example]:
    """The examples of a data set; one whose annotation cannot be read is a row that says so there as here."""
    for index in range(len(data)):
        with suppress(Exception):  # data sets may be anyone's code
            yield data[index]


def named(plan: Plan) -> Iterator[Path]:
    """The files that the entries of a plan name: weights (which not only Python opens), labels, pictures and masks."""
    for model in plan.models.values():
        yield from (path for path in (model.checkpoint, model.labels) if isinstance(path, Path))
    for entry in plan.data.values():
        for example in readable(entry.data):
            yield from files(example)


def needed(plan_file: Path) -> set[Path]:
    """The files under `SHARED` that a plan's models and data sets need. Raises `ValueError` if it names others."""
    home = SHARED.resolve()
    with opened_files() as opened:
        plan = plans.read(plan_file)  # data sets read their lists when they are made
        bench = Workbench(plan)
        for name in plan.models:
            bench.classifier(name)
        for path in named(plan):
            if not path.resolve().is_relative_to(home):
                raise ValueError(f"{str(path)!r} is not packed, as it lies outside of {str(home)!r}; put it there")
            opened.add(path.resolve())
    return {path for path in opened if path.is_relative_to(home) and path.is_file() and path.suffix != ".pyc"}


def check_packed(folder: Path) -> None:
    """Raise `ValueError` unless the packed plan finds its files in its folder."""
    before = os.environ.get("SFUMATO_SHARED")
    os.environ["SFUMATO_SHARED"] = str((folder / "data").resolve())
    try:
        try:
            plan = plans.read(folder / "plan.toml")
        except ValueError as error:
            raise ValueError(
                f"the packed plan does not find its files: {error}; write $SFUMATO_SHARED/… in it"
            ) from error
        for path in named(plan):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"the packed plan names {str(path)!r}; write $SFUMATO_SHARED/… in it")
    finally:
        del os.environ["SFUMATO_SHARED"]
        os.environ.update({} if before is None else {"SFUMATO_SHARED": before})


def pack(plan_file: Path, folder: Path, device: str | None) -> int:
    """Copy a plan and what it needs into a folder; returns the number of bytes. Raises `ValueError` if it lacks something."""
    total = 0
    for path in sorted(needed(plan_file)):
        target = folder / "data" / path.relative_to(SHARED.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        total += target.stat().st_size
    text = plan_file.read_text(encoding="utf-8")
    if device is not None:
        text = f'device = "{device}"\n' + re.sub(r"(?m)^device\s*=.*\n", "", text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.toml").write_text(text, encoding="utf-8")
    check_packed(folder)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--device", help="that the plan is to name, such as cuda")
    asked = parser.parse_args()
    if asked.folder.exists():
        sys.exit(f"{asked.folder} is there already; name a new folder")
    try:
        size = pack(asked.plan, asked.folder, asked.device)
    except ValueError as error:
        shutil.rmtree(asked.folder, ignore_errors=True)
        sys.exit(str(error))
    print(f"{asked.folder}: {size / 2**20:.0f} MiB of weights and pictures")


if __name__ == "__main__":
    main()
