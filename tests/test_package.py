"""What users install: the source archive and the wheel, built, installed into an empty environment, and used from there."""

import os
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def clean(*command, folder):
    """Run a command without this project's own environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=folder, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The folder with the source archive, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    clean(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "build", "hatchling", folder=folder)
    clean(python, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ROOT, folder=folder)
    return folder / "dist"


@pytest.mark.slow
def test_the_archives_hold_what_is_needed_and_nothing_else(archives):
    (wheel,), (source,) = archives.glob("*.whl"), archives.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    tracked = [path.relative_to(ROOT).as_posix() for path in files]
    assert {path.removeprefix("src/") for path in tracked} <= inside, "also pictures, styles and scripts"
    assert "sfumato/py.typed" in inside
    assert not [name for name in inside if name.startswith(("tests/", "docs/"))]
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", *tracked} <= names


@pytest.mark.slow
def test_the_demo_runs_from_an_empty_environment(archives, tmp_path):
    """With what the wheel says it needs: nothing may come by way of this project's own environment."""
    (wheel,) = archives.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python, sfumato = (tmp_path / "env" / "bin" / name for name in ("python", "sfumato"))
    install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    clean(*install, "--constraint", ROOT / "constraints.txt", f"{wheel}[demo,plots]", folder=tmp_path)
    clean(python, "-m", "pip", "check", folder=tmp_path)
    # Pages add an extra by the name of what is installed, which no index needs to have.
    clean(*install, "--no-index", "--dry-run", "sfumato[demo,plots]", folder=tmp_path)
    where = clean(python, "-c", "import sfumato; print(sfumato.__file__)", folder=tmp_path)
    assert str(tmp_path) in where
    assert "3 results in sfumato-demo" in clean(sfumato, "demo", folder=tmp_path)
    assert (tmp_path / "sfumato-demo" / "demo.png").stat().st_size > 100_000
