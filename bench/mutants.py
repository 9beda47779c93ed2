"""Whether the tests can fail: single changes of the code, each run against the tests that concern its module.

    python bench/mutants.py                                  # all modules below: days
    python bench/mutants.py --sample 200 --seed 1            # so many changes, drawn from all
    python bench/mutants.py scores metrics/likeness          # of some modules
    python bench/mutants.py --summary                        # what the file of results says so far

Changes are made in a copy of the tree, one at a time. Each is a line of JSON in `--out`, written as soon as it is known; the
same command goes on where it was broken off. A change that no test notices has survived: it is either a gap in the tests or
makes no difference (of those there are always some).
"""

import argparse
import ast
import copy
import difflib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/sfumato"

MODULES = (
    *("masks", "ascent", "blackbox", "scores", "games", "perturbations", "jitter", "sufficient", "rules", "schedules"),
    *("penalties", "space", "pictures", "probing", "surroundings", "subject", "capture", "arguments"),
    *(f"metrics/{path.stem}" for path in sorted((SOURCE / "metrics").glob("*.py")) if path.stem != "__init__"),
)

TESTS = {
    "ascent": ("test_mutants_search", "test_analytic", "test_properties"),
    "blackbox": ("test_blackbox", "test_mutants_search"),
    "games": ("test_reference", "test_analytic", "test_bad_input", "test_smallest"),
    "jitter": ("test_mutants_search", "test_reference", "test_meaningful"),
    "arguments": ("test_arguments",),
    "capture": ("test_calls_of_layers", "test_lower", "test_inside"),
    "masks": ("test_mutants_search", "test_reference", "test_properties", "test_shapes", "test_analytic"),
    "penalties": ("test_mutants_search", "test_reference"),
    "perturbations": ("test_mutants_search", "test_reference", "test_properties", "test_bad_input"),
    "pictures": ("test_mutants_metrics", "test_pictures"),
    "rules": ("test_mutants_search", "test_backprop", "test_rules_seen"),
    "schedules": ("test_mutants_search", "test_bad_input"),
    "scores": ("test_scores", "test_reference", "test_properties", "test_contract", "test_bad_input"),
    "probing": ("test_mutants_search", "test_unusual_models", "test_every_method", "test_contract", "test_inside"),
    "space": ("test_reference", "test_properties", "test_maps_and_truth"),
    "subject": ("test_unusual_models", "test_contract", "test_arguments"),
    "surroundings": ("test_unusual_models", "test_every_method", "test_contract"),
    "sufficient": ("test_mutants_search", "test_smallest", "test_inside"),
}
"""The quickest first. A module that is not here has the test files that import it, and for protocols those of all protocols."""

PROTOCOLS = ("test_mutants_metrics", "test_maps_and_truth", "test_protocols_of_models", "test_estimate")

EVERYWHERE = ("tests/test_defaults.py::test_every_tensor_is_made_with_its_dtype_and_device",)
"""Of every module: a change that takes away a tensor's dtype or device shows there."""

LEAST = 60.0
"""Seconds that a run of the tests may take at least; five times what they take without a change, if that is more."""

COMPARISONS = {
    one: other
    for pair in ((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn))
    for one, other in (pair, pair[::-1])
}
OPERATIONS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
NAMES = {
    **dict(pair.split() for pair in ("sum max", "max min", "min max", "amax amin", "amin amax", "any all", "all any")),
    **dict(pair.split() for pair in ("floor ceil", "ceil floor", "mean sum", "argmax argmin", "maximum minimum")),
}


@dataclass(frozen=True)
class Change:
    """A part of a module's text, and what takes its place."""

    module: str
    kind: str
    start: int
    end: int
    line: int
    before: str
    after: str

    def key(self, text: str) -> str:
        """Of the change of this very text."""
        words = f"{self.module} {hashlib.sha256(text.encode()).hexdigest()} {self.start} {self.end} {self.after}"
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def made(self, text: str) -> str:
        return text[: self.start] + self.after + text[self.end :]


def changes(module: str, text: str) -> list[Change]:
    """All that are tried of a module, in the order of its text.

    >>> [(each.kind, each.before, each.after) for each in changes("m", "def f(x):\\n    return x + 1\\n")]
    [('operation', 'x + 1', '(x - 1)'), ('constant', '1', '2')]
    """
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        return len(text.encode()[: starts[line - 1] + column].decode())

    made = []
    for node, kind, after in _variants(ast.parse(text)):
        start, end = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
        made.append(Change(module, kind, start, end, node.lineno, text[start:end], after))
    made = [change for change in made if change.after != change.before and _parses(change.made(text))]
    return sorted(made, key=lambda change: (change.start, change.end, change.kind, change.after))


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _variants(tree: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """Nodes, the kind of change, and the text that takes their place."""
    for node in _of_interest(tree):
        if isinstance(node, ast.Compare):
            for index, operator in enumerate(node.ops):
                if type(operator) in COMPARISONS:
                    changed = copy.deepcopy(node)
                    changed.ops[index] = COMPARISONS[type(operator)]()
                    yield node, "comparison", f"({ast.unparse(changed)})"
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            changed = copy.deepcopy(node)
            changed.op = OPERATIONS[type(node.op)]()
            yield node, "operation", f"({ast.unparse(changed)})"
        elif isinstance(node, ast.BoolOp):
            changed = copy.deepcopy(node)
            changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, "logic", f"({ast.unparse(changed)})"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, "sign", f"({ast.unparse(node.operand)})"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            other = not node.value if isinstance(node.value, bool) else {0: 1, 1: 2}.get(node.value, node.value * 2)
            yield node, "constant", repr(other)
        elif isinstance(node, ast.Call):
            yield from _of_calls(node)
        elif isinstance(node, ast.IfExp):
            changed = copy.deepcopy(node)
            changed.body, changed.orelse = changed.orelse, changed.body
            yield node, "condition", f"({ast.unparse(changed)})"
        elif isinstance(node, ast.Expr | ast.AugAssign):
            yield node, "statement", "pass"


def _of_calls(node: ast.Call) -> Iterator[tuple[ast.AST, str, str]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in NAMES:
        changed = copy.deepcopy(node)
        if isinstance(changed.func, ast.Attribute):
            changed.func.attr = NAMES[name]
        else:
            changed.func.id = NAMES[name]
        yield node, "name", ast.unparse(changed)
    if len(node.args) > 1 and not any(isinstance(each, ast.Starred) for each in node.args):
        changed = copy.deepcopy(node)
        changed.args[:2] = reversed(changed.args[:2])
        yield node, "arguments", ast.unparse(changed)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            changed = copy.deepcopy(node)
            del changed.keywords[index]
            yield node, "keyword", ast.unparse(changed)


def _of_interest(node: ast.AST) -> Iterator[ast.AST]:
    """Not what is only read: types, docstrings, messages, imports, decorators."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _of_interest(child)


def concerned(module: str) -> list[str]:
    """The test files for a module, from the root."""
    if module in TESTS:
        names = TESTS[module]
    else:
        dotted = f"sfumato.{module.replace('/', '.')}"
        names = [path.stem for path in sorted((ROOT / "tests").glob("test_*.py")) if imports(path, dotted)]
        if module.startswith("metrics/"):
            names = [*PROTOCOLS, *(name for name in names if name not in PROTOCOLS)]
    found = [f"tests/{name}.py" for name in dict.fromkeys(names) if (ROOT / f"tests/{name}.py").exists()]
    return [*found, *EVERYWHERE]


def imports(path: Path, dotted: str) -> bool:
    return re.search(rf"\b{re.escape(dotted)}\b", path.read_text(encoding="utf-8")) is not None


class Copy:
    """A copy of what the tests need, in which changes are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "tests", "docs", "examples", "bench"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, folder)

    def path(self, module: str) -> Path:
        return self.folder / f"src/sfumato/{module}.py"

    def passes(self, tests: list[str], limit: float) -> tuple[str, float]:
        """ "survived", "killed" or "late", and the seconds that it took."""
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
        own = {"PYTHONPATH": str(self.folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        try:
            ended = subprocess.run(
                command, cwd=self.folder, env={**os.environ, **own}, capture_output=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return "late", time.monotonic() - began
        return ("killed" if ended.returncode else "survived"), time.monotonic() - began


def read(out: Path) -> dict[str, dict]:
    """What is known, by key."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def run(drawn: list[Change], texts: dict[str, str], out: Path, limit: float | None) -> None:
    known = read(out)
    left = [change for change in drawn if change.key(texts[change.module]) not in known]
    print(f"{len(drawn)} changes, {len(drawn) - len(left)} of them known from {out}")
    limits: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, out.open("a", encoding="utf-8") as file:
        tree = Copy(Path(folder))
        for number, change in enumerate(left, start=1):
            tests, text = concerned(change.module), texts[change.module]
            if not tests:
                sys.exit(f"no test file concerns {change.module}: name some in TESTS")
            if change.module not in limits:
                outcome, seconds = tree.passes(tests, 3600)
                if outcome != "survived":
                    sys.exit(f"the tests of {change.module} fail without a change: pytest {' '.join(tests)}")
                limits[change.module] = limit or max(LEAST, 5 * seconds)
            path = tree.path(change.module)
            path.write_text(change.made(text), encoding="utf-8")
            try:
                outcome, seconds = tree.passes(tests, limits[change.module])
            finally:
                path.write_text(text, encoding="utf-8")
            row = {"key": change.key(text), **asdict(change), "outcome": outcome, "seconds": round(seconds, 1)}
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{number}/{len(left)} {outcome:8} {change.module}:{change.line} {change.kind}", flush=True)


def summary(rows: list[dict], texts: dict[str, str]) -> str:
    """The share killed by module, and what survived as differences."""
    lines = ["| module | changes | killed | share |", "| --- | ---: | ---: | ---: |"]
    totals, killed = Counter(row["module"] for row in rows), Counter()
    killed.update(row["module"] for row in rows if row["outcome"] != "survived")
    for module in [*sorted(totals), None]:
        count, gone = (totals[module], killed[module]) if module else (totals.total(), killed.total())
        lines.append(f"| {module or 'all'} | {count} | {gone} | {100 * gone / max(1, count):.0f} % |")
    for row in rows:
        if row["outcome"] == "survived":
            change = Change(**{name: row[name] for name in Change.__dataclass_fields__})
            text = texts[change.module]
            name = f"src/sfumato/{change.module}.py"
            parts = text.splitlines(), change.made(text).splitlines()
            lines += ["", *difflib.unified_diff(*parts, name, name, n=0, lineterm="")]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--sample", type=int, help="so many changes, drawn from all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--limit", type=float, help="seconds for each run; by default five times what the tests take")
    parser.add_argument("--out", type=Path, default=ROOT / "build/mutants.jsonl", help="the file of results")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    options = parser.parse_args()
    unknown = set(options.modules) - set(MODULES)
    if unknown:
        parser.error(f"unknown modules {', '.join(sorted(unknown))}; expected some of {', '.join(MODULES)}")
    texts = {module: (SOURCE / f"{module}.py").read_text(encoding="utf-8") for module in options.modules or MODULES}
    drawn = [change for module, text in texts.items() for change in changes(module, text)]
    if options.sample is not None and options.sample < len(drawn):
        drawn = random.Random(options.seed).sample(drawn, options.sample)  # noqa: S311  # no secret
        drawn.sort(key=lambda change: (change.module, change.start))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not options.summary:
        run(drawn, texts, options.out, options.limit)
    known = read(options.out)
    current = {change.key(text) for module, text in texts.items() for change in changes(module, text)}
    print(summary([row for key, row in known.items() if key in current], texts))


if __name__ == "__main__":
    main()
