"""Bundles: what is written is what is verified, and what was not finished is known."""

import json
import os

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


def test_a_link_to_the_same_content_is_a_change(written, tmp_path) -> None:
    (written / "certificate.json").rename(tmp_path / "elsewhere.json")
    (written / "certificate.json").symlink_to(tmp_path / "elsewhere.json")
    assert verify(written) == ["certificate.json has changed."]


def test_a_linked_folder_is_a_change(written, tmp_path) -> None:
    (written / "masks").rename(tmp_path / "elsewhere")
    (written / "masks").symlink_to(tmp_path / "elsewhere")
    assert verify(written) == ["masks/0.png is missing.", "masks is not in the manifest."]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of Unix")
def test_what_is_no_file_is_not_in_the_manifest(written) -> None:
    os.mkfifo(written / "pipe")
    assert verify(written) == ["pipe is not in the manifest."]


@pytest.mark.parametrize(("old", "new"), [('"lite0"', '"lite1"'), ('"torch"', '"tarch"'), ('"bytes": 3', '"bytes": 4')])
def test_a_changed_manifest_is_said(written, old: str, new: str) -> None:
    content = (written / MANIFEST).read_text()
    assert old in content
    (written / MANIFEST).write_text(content.replace(old, new))
    assert verify(written) == ["manifest.json has changed."]


def test_a_bundle_of_the_first_format_verifies(written) -> None:
    content = json.loads((written / MANIFEST).read_text())
    del content["sha256"]
    (written / MANIFEST).write_text(json.dumps(content))
    assert verify(written) == ["manifest.json has changed."]
    (written / MANIFEST).write_text(json.dumps({**content, "format": "sfumato evidence 1"}))
    assert verify(written) == []


def test_names_in_a_manifest_lead_nowhere_else(written, tmp_path) -> None:
    (tmp_path / "secret").write_bytes(b"one")
    content = json.loads((written / MANIFEST).read_text())
    content = {
        **content,
        "format": "sfumato evidence 1",
        "files": {**content["files"], "../secret": content["files"]["masks/0.png"]},
    }
    (written / MANIFEST).write_text(json.dumps(content))
    assert verify(written) == ["../secret is missing."]


def test_a_link_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="'there' is a link"), bundle(tmp_path / "b") as folder:
        (folder / "there").symlink_to(tmp_path)
    assert "There is no manifest" in verify(tmp_path / "b")[0]


def test_a_folder_into_which_nothing_was_written_can_be_used_again(tmp_path) -> None:
    with pytest.raises(ValueError, match="early"), bundle(tmp_path / "b"):
        raise ValueError("early")
    assert not list((tmp_path / "b").iterdir())
    with bundle(tmp_path / "b") as folder:
        (folder / "one").write_text("")
    assert verify(tmp_path / "b") == []


def test_a_second_process_cannot_write_the_same_bundle(tmp_path) -> None:
    with bundle(tmp_path / "b") as folder:
        with pytest.raises(ValueError, match="a new or empty folder"), bundle(folder):
            pass
        (folder / "one").write_text("")
    assert verify(tmp_path / "b") == []
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [MANIFEST, "one"]


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


def test_facts_with_numbers_as_names_can_be_verified(tmp_path) -> None:
    """Numbers are sorted otherwise than the text that JSON makes of them."""
    with bundle(tmp_path / "b", {"classes": {2: "dog", 10: "cat"}}) as place:
        (place / "a.txt").write_text("a")
    assert verify(tmp_path / "b") == []
