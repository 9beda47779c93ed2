"""Files are written whole or not at all, whatever happens meanwhile, and as any program would write them."""

import re
import resource
from contextlib import contextmanager

import pytest
import torch

from sfumato.attribution import Attribution, load
from sfumato.behaviour.records import Records
from sfumato.files import written


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    old, path = tmp_path / "old.txt", tmp_path / "a.txt"
    old.write_text("old")
    path.symlink_to(old)
    with written(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), path.is_symlink(), old.read_text()) == ("new", False, "old")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.txt", "old.txt"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("of the content"), KeyboardInterrupt()]
)
def test_after_an_error_or_ctrl_c_the_old_file_is_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)) as raised, written(path) as partial:  # noqa: PT012
        partial.write_text("half of the n")
        raise error
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
    if isinstance(error, OSError):
        assert str(raised.value).startswith(f"cannot write {str(path)!r}: No space left on device; expected ")


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("missing/a", FileNotFoundError, "No such file or directory"),
        ("file/a", NotADirectoryError, "Not a directory"),
        ("folder", IsADirectoryError, "Is a directory"),
    ],
)
def test_where_nothing_can_be_written_the_name_that_was_given_is_said(tmp_path, name, error, reason):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=re.escape(f"cannot write {str(tmp_path / name)!r}: {reason}; expected a folder")):
        Attribution(map=torch.zeros(1, 1, 2, 2)).save(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


@contextmanager
def no_file_longer_than(size):
    """As on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_where_there_is_no_room_the_old_result_stays(tmp_path):
    path = tmp_path / "a.safetensors"
    small, large = (Attribution(map=torch.zeros(1, 1, side, side)) for side in (2, 100))
    small.save(path)
    with no_file_longer_than(4096), pytest.raises(OSError, match=re.escape(f"cannot write {str(path)!r}: ")):
        large.save(path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert load(path).map.shape == small.map.shape


def test_results_and_records_can_be_read_by_whom_the_umask_lets(tmp_path):
    (tmp_path / "any").touch()
    Attribution(map=torch.zeros(1, 1, 2, 2)).save(tmp_path / "result.safetensors")
    Records.at(tmp_path / "records").get_or_compute({"kind": "mask"}, lambda: {"mask": torch.zeros(2)})
    (record,) = (tmp_path / "records").iterdir()
    for path in (record, tmp_path / "result.safetensors"):
        assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
