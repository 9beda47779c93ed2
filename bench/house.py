"""How the package is built, in numbers: what one call runs through, and what imports what.

`python bench/house.py` prints a table. A call is `ExtremalPerturbation()` of a small network, from its first line to its last;
files and functions are the package's own, each counted once, however often it runs.
"""

import ast
import sys
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import sfumato

PACKAGE = Path(sfumato.__file__).parent


class Calls:
    """A profile function that notes the package's functions as they are called."""

    def __init__(self) -> None:
        self.functions: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        path = Path(code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and not code.co_name.startswith("<"):
            self.functions[str(path.relative_to(PACKAGE)), code.co_qualname] += 1

    @property
    def files(self) -> Counter[str]:
        """How many functions of each file are called."""
        return Counter(file for file, _ in self.functions)


def main_path(steps: int = 12) -> tuple[Calls, Calls]:
    """What one call of the main method runs through, and what a step in its middle does."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    net, method, inputs = nn.Sequential(*layers), sfumato.ExtremalPerturbation(steps=steps), torch.rand(1, 3, 64, 64)
    method(net, inputs, 1)  # what is loaded at first use is loaded
    whole, step = Calls(), Calls()

    def progress(done: Any) -> None:
        if done.index == steps // 2:
            sys.setprofile(step)
        elif done.index == steps // 2 + 1:
            sys.setprofile(None)

    try:
        sys.setprofile(whole)
        method(net, inputs, 1)
        sys.setprofile(None)
        method(net, inputs, 1, progress=progress)
    finally:
        sys.setprofile(None)
    return whole, step


def imports() -> dict[str, set[str]]:
    """Which modules of the package each one imports, anywhere in its file."""
    names = {_name(path): path for path in PACKAGE.rglob("*.py")}
    return {name: {*_imported(path, names)} - {name} for name, path in names.items()}


def _name(path: Path) -> str:
    parts = ("sfumato", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def _imported(path: Path, names: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sfumato":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each imports, by some way, all others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return groups


def exemptions() -> int:
    """Imports that the contracts look away from."""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project.get("tool", {}).get("importlinter", {}).get("contracts", [])
    return sum(len(contract.get("ignore_imports", [])) for contract in contracts)


def lines() -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))


def main() -> None:
    warnings.simplefilter("ignore")
    calls, step = main_path()
    print(f"files on the way of a call       {len(calls.files)}")
    print(f"functions on the way             {len(calls.functions)}")
    print(f"files of one of its steps        {len(step.files)}")
    print(f"functions of a step              {len(step.functions)}")
    print(f"modules at the top               {sum(1 for path in PACKAGE.glob('*.py'))}")
    print(f"packages at the top              {sum(1 for path in PACKAGE.iterdir() if (path / '__init__.py').exists())}")
    print(f"cycles of imports                {len(cycles(imports()))}")
    print(f"exemptions from the contracts    {exemptions()}")
    print(f"lines                            {lines()}")
    for file, count in calls.files.most_common():
        print(f"  {count:3} {file}")


if __name__ == "__main__":
    main()
