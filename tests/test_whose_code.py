"""Every row belongs to the code that computed it: which files that is, what a plan says of it, and that workers have it too."""

import functools
import importlib
import importlib.util
import itertools
import sys
import textwrap
import types

import numpy as np
import pytest
from PIL import Image

from sfumato.runs.checks.check import check_plan
from sfumato.runs.execution.session import begin
from sfumato.runs.execution.workers import spread
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import summary
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.work import source
from sfumato.runs.work.workbench import Workbench

NUMBERS = itertools.count()

CLASS = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Method:
    def __call__(self):
        """


class Project:
    """A folder of a user's modules, under names that no other test has: `X` in a text is such a part of names."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.mark = f"own{next(NUMBERS)}"
        monkeypatch.syspath_prepend(root)

    def write(self, files):
        for name, text in files.items():
            path = self.root / name.replace("X", self.mark)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).replace("X", self.mark))
        self.forget()

    def forget(self):
        """As if another process had begun."""
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if self.mark in name]:
            del sys.modules[name]

    def code(self, path):
        module, _, name = path.replace("X", self.mark).partition(":")
        thing = getattr(importlib.import_module(module), name)
        return source.of(thing() if isinstance(thing, type) else thing, [f"{module}:{name}"])


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path, monkeypatch)
    yield made
    made.forget()


ONE, TWO = "value = lambda: 1\n", "value = lambda: 2\n"


@pytest.mark.parametrize(
    ("files", "path", "changed"),
    [
        pytest.param(
            {"X/m.py": CLASS + "from X.parts import deep", "X/parts/deep.py": ONE}, "X.m:Method", "X/parts/deep.py",
            id="imported in a function, from a package without __init__",
        ),
        pytest.param(
            {"X_m.py": CLASS + "from X_lib import deep", "X_lib/__init__.py": "", "X_lib/deep.py": ONE}, "X_m:Method",
            "X_lib/deep.py", id="a package beside the module",
        ),
        pytest.param(
            {"X/m.py": "import X_lib\n" + CLASS + "pass", "X/__init__.py": "", "X_lib.py": ONE}, "X.m:Method", "X_lib.py",
            id="a module beside the package",
        ),
        pytest.param(
            {
                "X/m.py": "from X_lib import deep\n" + CLASS + "pass",
                "X/__init__.py": "",
                "X_lib/__init__.py": "",
                "X_lib/deep.py": ONE,
            },
            "X.m:Method", "X_lib/deep.py", id="a package beside the package",
        ),
        pytest.param(
            {
                "X/m.py": "from importlib import import_module\n" + CLASS + "import_module('.deep', __package__)",
                "X/__init__.py": "",
                "X/deep.py": ONE,
            },
            "X.m:Method", "X/deep.py", id="imported by its name",
        ),
        pytest.param(
            {
                "X/m.py": "import importlib\n" + CLASS + "importlib.import_module('X.parts.' + 'deep')",
                "X/__init__.py": "",
                "X/parts/__init__.py": "",
                "X/parts/deep.py": ONE,
            },
            "X.m:Method", "X/parts/deep.py", id="imported by a computed name",
        ),
        pytest.param(
            {
                "X_m.py": "from importlib import import_module as load\n"
                "lib = load('X_lib')\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="another name of the function that imports",
        ),
        pytest.param(
            {
                "X_m.py": "import importlib\n"
                "load = importlib.import_module\n"
                "lib = load('X_lib')\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="a function that imports, under another name",
        ),
        pytest.param(
            {
                "X_m.py": "import pkgutil\n"
                "value = pkgutil.resolve_name('X_lib:value')\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="a name that is resolved",
        ),
        pytest.param(
            {
                "X_m.py": "exec('import ' + 'X_lib')\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="a text that is run",
        ),
        pytest.param(
            {
                "X_m.py": "import runpy\n"
                "lib = runpy.run_path(__file__.replace('X_m', 'X_lib'))\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="a file that is run",
        ),
        pytest.param(
            {
                "X_m.py": "import importlib.util as u\n"
                "spec = u.spec_from_file_location('other', __file__.replace('X_m', 'X_lib'))\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="a file by its specification",
        ),
        pytest.param(
            {
                "X_m.py": "from importlib.machinery import SourceFileLoader as Load\n"
                "lib = Load('other', __file__.replace('X_m', 'X_lib'))\n"
                + CLASS + "pass",
                "X_lib.py": ONE,
            },
            "X_m:Method", "X_lib.py", id="a file by its loader",
        ),
        pytest.param(
            {
                "X/m.py": "import X\n" + CLASS + "X.deep.value()",
                "X/__init__.py": """
                    import importlib
                    OFFERS = {"deep": ".deep"}
                    def __getattr__(name):
                        return importlib.import_module(OFFERS[name], __name__)
                    """,
                "X/deep.py": ONE,
            },
            "X.m:Method", "X/deep.py", id="a package that imports when asked",
        ),
        pytest.param(
            {"X/m.py": CLASS + "pass", "X/__init__.py": ONE}, "X.m:Method", "X/__init__.py", id="the package itself",
        ),
        pytest.param(
            {
                "X_deco.py": "def logged(inner):\n    def outer(*args): return inner(*args)\n    return outer\n",
                "X/m.py": "import X_deco\n@X_deco.logged\ndef method(): return 1\n",
                "X/__init__.py": "",
            },
            "X.m:method", "X/m.py", id="a function that a decorator has wrapped",
        ),
        pytest.param(
            {"X.py": "import functools\ndef inner(): return 1\nmethod = functools.partial(inner)\n"}, "X:method", "X.py",
            id="a partial function",
        ),
        pytest.param({"profile.py": CLASS + "return 1"}, "profile:Method", "profile.py", id="named as one of Python's own"),
    ],
)  # fmt: skip
def test_what_a_user_s_code_is_made_of(project, monkeypatch, files, path, changed):
    monkeypatch.delitem(sys.modules, "profile", raising=False)
    project.write(files)
    before = project.code(path)
    assert before
    assert project.code(path) == before  # where all is loaded
    project.write({changed: files[changed] + "\nTWO = 2\n"})
    monkeypatch.delitem(sys.modules, "profile", raising=False)
    after = project.code(path)
    assert [line.split()[0] for line in after] == [line.split()[0] for line in before]
    assert len(source.differing(before, after)) == 1
    project.write({changed: files[changed]})
    monkeypatch.delitem(sys.modules, "profile", raising=False)
    assert project.code(path) == before


def test_a_version_is_that_of_the_class_that_states_it(project):
    """A base class that states a version cannot know what derives from it."""
    derived = "from X_base import Base\nclass Method(Base):\n    value = {}\n"
    project.write({"X_base.py": 'class Base:\n    version = "1"\n', "X.py": derived.format(1)})
    before = project.code("X:Method")
    assert any(line.endswith("Base version 1") for line in before)
    project.write({"X.py": derived.format(2)})
    assert source.differing(before, project.code("X:Method")) == [project.mark]
    project.write({"X.py": derived.format(1) + '    version = "2"\n'})
    (stated,) = project.code("X:Method")
    project.write({"X.py": derived.format(3) + '    version = "2"\n', "X_base.py": "class Base:\n    pass\n"})
    assert project.code("X:Method") == [stated]


NOTEBOOK = """
SCALE = {scale}
def helper(x, kinds=frozenset({{"a", "b"}})):
    return SCALE * x if x in {{"a", "b"}} else {number}
class Method:
    def __call__(self, x):
        return [helper(part) for part in x]
"""


def test_code_without_a_file_is_known_by_what_it_is_compiled_to(monkeypatch):
    def code(text, **parts):
        monkeypatch.setitem(sys.modules, "some_notebook", module := types.ModuleType("some_notebook"))
        exec(text.format(**{"scale": 1, "number": 1} | parts), vars(module))  # noqa: S102  # as a notebook does
        return source.of(module.Method())

    before = code(NOTEBOOK)
    assert code("# a comment" + NOTEBOOK) == before
    assert code(NOTEBOOK, number=2) != before  # of a function that the class uses
    assert code(NOTEBOOK, scale=2.5) != before
    assert len({tuple(code(NOTEBOOK, scale=scale)) for scale in (1, 2, 3)}) == 3


def test_a_partial_function_is_what_it_holds():
    assert source.of(functools.partial(np.clip, 0)) == source.of(np.clip)


MODULE = """
import torch
from torch import nn
from sfumato.attribution import Attribution
from sfumato.metrics import Protocol
from sfumato.metrics.estimate import Measure, mean
from sfumato.models import Classifier, Preparation

def net():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier("net", made.eval(), Preparation(8, None, (0.0,) * 3, (1.0,) * 3), ("one", "two"))

FACTOR = 1.0

class Method:
    def __init__(self, scale=1.0):
        self.scale = scale
    def __call__(self, model, inputs, target=None):
        return Attribution(map=FACTOR * self.scale * inputs.sum(1, keepdim=True), about={})

def made(scale=1.0):
    return Method(scale)

def nested(scale=1.0):
    def explain(model, inputs, target=None):
        return Method(scale)(model, inputs)
    return explain

class Sum(Protocol):
    def __init__(self, times=1.0):
        self.times = times
    def measure(self, case):
        return {"sum": self.times * float(case.map.sum())}
    def measures(self, rows):
        return (Measure("sum", mean("sum")),)
"""


class Bench(Project):
    def __init__(self, root, monkeypatch):
        super().__init__(root, monkeypatch)
        self.write({"X.py": MODULE})
        for seed in range(2):
            values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
            (root / "pictures").mkdir(exist_ok=True)
            Image.fromarray(values).save(root / "pictures" / f"{seed}.png")

    def plan(self, method='"X:Method"', protocol='"X:Sum"'):
        text = f"""
            [models]
            net = "X:net"
            [methods]
            mine = {method}
            [protocols]
            sum = {protocol}
            [data.some]
            use = "Folder"
            path = "pictures"
            targets = "predicted"
            """
        return parse(textwrap.dedent(text).replace("X", self.mark), self.root)

    def begin(self, **parts):
        return begin(self.plan(**parts), Place(self.root / "run"))

    def done(self, **parts):
        """How many items the run did now, and its sums."""
        work = list(self.begin(**parts).work())
        record = read_record(Place(self.root / "run"))
        with record.place.store() as store:
            sums = [row["sum"] for row in summary.rows(record, store) if "sum" in row]
        return work[-1].done if work else 0, sums


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.forget()


@pytest.mark.parametrize("use", ["X:Method", "X:made"])
def test_settings_of_an_object_that_does_not_tell_them_are_as_the_plan_has_them(bench, use):
    count, once = bench.done(method=f'{{ use = "{use}", scale = 1.0 }}')
    count_now, twice = bench.done(method=f'{{ use = "{use}", scale = 2.0 }}')
    assert (count, count_now) == (2, 2)
    assert twice == pytest.approx([2 * value for value in once], rel=1e-6)
    assert bench.done(method=f'{{ use = "{use}", scale = 1.0 }}') == (0, once)
    count, thrice = bench.done(
        method=f'{{ use = "{use}", scale = 1.0 }}', protocol='{ use = "X:Sum", times = 3.0, methods = ["mine"] }'
    )
    assert count == 2
    assert thrice == pytest.approx([3 * value for value in once], rel=1e-6)


def test_a_method_that_no_process_can_be_sent_is_refused(bench):
    plan = bench.plan(method='"X:nested"')
    (fault,) = check_plan(plan, Workbench(plan)).faults
    assert fault.keys == ("methods", "mine")
    assert "cannot be sent to worker processes" in fault.message


def test_a_worker_has_the_code_with_which_the_run_began(bench):
    """One that starts while a run goes on would load what was edited meanwhile."""
    session = bench.begin()
    (bench.root / f"{bench.mark}.py").write_text(MODULE.replace("FACTOR = 1.0", "FACTOR = 5.0"))
    with pytest.raises(RuntimeError, match=r"the code of method 'mine' \(own\d+\) is another here"):
        list(spread(session))
    with session.place.store() as store:
        assert session.left(store) == 2
    bench.forget()
    count, fives = bench.done()
    assert count == 2
    bench.write({"X.py": MODULE})
    count, ones = bench.done()
    assert count == 2
    assert fives == pytest.approx([5 * value for value in ones], rel=1e-6)


def test_a_copy_of_a_run_has_the_tables_of_protocols_that_are_missing(bench):
    """The code of a protocol says what its rows come down to. The run has noted that."""
    bench.done()
    before = lines(bench)
    assert [line.measure.name for line in before] == ["sum"]
    (bench.root / f"{bench.mark}.py").unlink()
    bench.forget()
    assert lines(bench) == before


def test_a_protocol_whose_measures_nobody_knows_is_left_out(bench):
    bench.done(protocol='"X:Sum"\ncentre = "InsertionDeletion"')
    with read_record(Place(bench.root / "run")).place.store() as store:
        store.note("measures sum", [])
    (bench.root / f"{bench.mark}.py").unlink()
    bench.forget()
    with pytest.warns(UserWarning, match="protocol 'sum' is left out, as the run has not noted its measures"):
        assert {line.protocol for line in lines(bench)} == {"centre"}


def lines(bench):
    record = read_record(Place(bench.root / "run"))
    with record.place.store() as store:
        return list(summary.lines(record, store))


def test_a_worker_does_not_ask_for_modules_that_it_cannot_see():
    lines = ["a 1", "b 2", "c:Some version 3"]
    assert source.differing(lines, ["a 1", "c:Some version 3"]) == []
    assert source.differing(lines, ["a 1", "b 3", "c:Some version 4"]) == ["b", "c:Some version"]


def test_code_that_was_loaded_from_its_file_counts(tmp_path):
    """As by `spec_from_file_location`: the module is in no table of loaded ones."""
    path = tmp_path / "networks.py"

    def lines(text):
        path.write_text(text)
        importlib.invalidate_caches()
        spec = importlib.util.spec_from_file_location("networks_of_mine", path)
        module = importlib.util.module_from_spec(spec)
        exec(compile(text, str(path), "exec"), vars(module))  # noqa: S102  # as the loader does, without its cache
        return source.of(module.Net()), source.of(module.score)

    text = (
        "from torch import nn\n\n\ndef score(x):\n    return 2 * x\n\n\n"
        "class Net(nn.Module):\n    def forward(self, x):\n        return score(x)\n"
    )
    net, score = lines(text)
    assert net == score
    assert net[0].startswith("networks_of_mine ")
    changed, changed_score = lines(text.replace("2 * x", "3 * x"))
    assert changed != net
    assert changed_score != score
    assert lines(text) == (net, score)


def test_a_class_without_functions_has_no_file():
    kind = type("Made", (), {"__module__": "nowhere_at_all"})
    assert source.of(kind()) == []
