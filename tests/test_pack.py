"""A packed plan: what it needs and nothing else, so that it runs where the rest is not."""

# ruff: noqa: F811  # fixtures of another file

import importlib
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
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


@pytest.fixture
def shared(subject, pack, monkeypatch):
    """The folder of the shared files, which is the subject's."""
    folder, _ = subject
    monkeypatch.setattr(pack, "SHARED", folder)
    monkeypatch.setenv("SFUMATO_SHARED", str(folder))
    return folder


def plan_of(name, path="$SFUMATO_SHARED/pictures", model=""):
    text = 'device = "cpu"\n' + PLAN.format(module=name, model="seer").replace('"pictures"', f'"{path}"')
    return text.replace(f'"{name}:seer"', f'{{ use = "{name}:seer", {model} }}') if model else text


def test_a_folder_gets_the_weights_and_pictures_of_a_plan(subject, shared, tmp_path, pack):
    folder, name = subject
    (folder / "weights").write_bytes(b"of the model")
    (folder / "unused.png").write_bytes(b"of nothing")
    module = folder / f"{name}.py"
    module.write_text(module.read_text().replace("def seer():\n", "def seer():\n    open(HERE / 'weights').close()\n"))
    save_file(importlib.import_module(name).seer().net.state_dict(), folder / "checkpoint.safetensors")
    (folder / "plan.toml").write_text(plan_of(name, model='checkpoint = "$SFUMATO_SHARED/checkpoint.safetensors"'))
    size = pack.pack(folder / "plan.toml", tmp_path / "packed", "cuda")
    copied = {
        str(path.relative_to(tmp_path / "packed/data"))
        for path in (tmp_path / "packed/data").rglob("*")
        if path.is_file()
    }
    assert {"weights", "checkpoint.safetensors"} <= copied
    assert {f"pictures/{index}.png" for index in (0, 1, 2, 3, 4, 6, 8, 9, 10, 11)} <= copied
    assert "unused.png" not in copied
    assert size == sum(path.stat().st_size for path in (tmp_path / "packed/data").rglob("*") if path.is_file())
    assert plans.parse((tmp_path / "packed/plan.toml").read_text(), folder).device == "cuda"


def test_a_plan_that_could_not_be_read_elsewhere_is_refused(subject, shared, tmp_path, pack, monkeypatch):
    folder, name = subject
    (folder / "plan.toml").write_text(plan_of(name, str(folder / "pictures")))
    with pytest.raises(ValueError, match=r"names '.*pictures/0.png'; write \$SFUMATO_SHARED/"):
        pack.pack(folder / "plan.toml", tmp_path / "packed", None)
    monkeypatch.setattr(pack, "SHARED", folder / "elsewhere")
    with pytest.raises(ValueError, match=r"pictures/0.png' is not packed, as it lies outside of"):
        pack.pack(folder / "plan.toml", tmp_path / "other", None)
    assert not (tmp_path / "other").exists()
