"""A packed plan: what it needs and nothing else, so that it runs where the rest is not."""

# ruff: noqa: F811  # fixtures of another file

import sys
from pathlib import Path

import pytest
from test_runs import PLAN, subject  # noqa: F401  # a fixture

from sfumato.runs.plans import plan as plans

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def pack(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import pack

    yield pack
    for name in ("pack", "shared_models"):
        sys.modules.pop(name, None)


def test_a_folder_gets_the_weights_and_pictures_of_a_plan(subject, tmp_path, pack, monkeypatch):
    folder, name = subject
    (folder / "weights").write_bytes(b"of the model")
    (folder / "unused.png").write_bytes(b"of nothing")
    module = folder / f"{name}.py"
    module.write_text(module.read_text().replace("def seer():\n", "def seer():\n    open(HERE / 'weights').close()\n"))
    (folder / "plan.toml").write_text('device = "cpu"\n' + PLAN.format(module=name, model="seer"))
    monkeypatch.setattr(pack, "SHARED", folder)
    size = pack.pack(folder / "plan.toml", tmp_path / "packed", "cuda")
    copied = {
        str(path.relative_to(tmp_path / "packed/data"))
        for path in (tmp_path / "packed/data").rglob("*")
        if path.is_file()
    }
    assert {"weights"} | {f"pictures/{index}.png" for index in (0, 1, 2, 3, 4, 6, 8, 9, 10, 11)} <= copied
    assert "unused.png" not in copied
    assert size == sum(path.stat().st_size for path in (tmp_path / "packed/data").rglob("*") if path.is_file())
    assert plans.parse((tmp_path / "packed/plan.toml").read_text(), folder).device == "cuda"
