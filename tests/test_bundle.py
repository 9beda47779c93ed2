"""Bundles: what is written is what is verified, and what was not finished is known."""

import json

import pytest
from typer.testing import CliRunner

from sfumato import cli
from sfumato.evidence.bundle import MANIFEST, bundle, verify


@pytest.fixture
def written(tmp_path):
    with bundle(tmp_path / "b", {"model": "lite0"}) as folder:
        (folder / "masks").mkdir()
        (folder / "masks" / "0.png").write_bytes(b"one")
        (folder / "certificate.json").write_text("{}")
    return tmp_path / "b"


def test_a_bundle_verifies_and_says_what_it_is(written) -> None:
    assert verify(written) == []
    content = json.loads((written / MANIFEST).read_text())
    assert content["facts"] == {"model": "lite0"}
    assert sorted(content["files"]) == ["certificate.json", "masks/0.png"]
    assert content["files"]["masks/0.png"]["bytes"] == 3
    assert "torch" in content["versions"]


def test_each_change_is_named(written) -> None:
    (written / "masks" / "0.png").write_bytes(b"two")  # of the same size
    (written / "certificate.json").unlink()
    (written / "more.txt").write_text("")
    assert verify(written) == [
        "certificate.json is missing.",
        "masks/0.png has changed.",
        "more.txt is not in the manifest.",
    ]


def test_a_link_in_place_of_a_file_is_a_change(written, tmp_path) -> None:
    (written / "certificate.json").unlink()
    (written / "certificate.json").symlink_to(tmp_path / "nothing")
    assert verify(written) == ["certificate.json has changed."]


def test_what_was_not_finished_has_no_manifest(tmp_path) -> None:
    def interrupted() -> None:
        with bundle(tmp_path / "b") as folder:
            (folder / "certificate.json").write_text("{}")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        interrupted()
    assert verify(tmp_path / "b") == ["There is no manifest: the bundle was not finished, or this is no bundle."]


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"files": {"a": 1}, "format": ""}', "\udcff"])
def test_a_broken_manifest_is_said(written, content: str) -> None:
    (written / MANIFEST).write_text(content, errors="surrogateescape")
    assert verify(written) == ["The manifest cannot be read."]


def test_another_format_is_said(written) -> None:
    content = json.loads((written / MANIFEST).read_text())
    (written / MANIFEST).write_text(json.dumps({**content, "format": "sfumato evidence 9"}))
    assert "another format" in verify(written)[0]


def test_nothing_is_overwritten(written, tmp_path) -> None:
    with pytest.raises(ValueError, match="a new or empty folder"), bundle(written):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a new or empty folder"), bundle(tmp_path / "file"):
        pass
    with pytest.raises(ValueError, match="there is no folder"):
        verify(tmp_path / "none")


def test_the_command_says_what_is_wrong(written, tmp_path) -> None:
    def run(folder):
        return CliRunner().invoke(cli.app, ["verify", str(folder)])

    assert run(written).exit_code == 0
    assert "2 files are as they were written" in run(written).stdout
    (written / "masks" / "0.png").unlink()
    found = run(written)
    assert found.exit_code == 3
    assert found.stderr == "sfumato: masks/0.png is missing.\n"
    assert run(tmp_path / "none").exit_code == 2
