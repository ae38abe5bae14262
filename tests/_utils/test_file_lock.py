"""Locks of files; tests/generators/test_record_file.py has those of processes."""

import errno
import os
from contextlib import ExitStack

import pytest

from skqprobe._utils import file_lock
from skqprobe._utils.file_lock import FileLock


def test_the_lock_names_the_process_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    with FileLock(path):
        assert (tmp_path / "file.lock").read_text() == str(os.getpid())
        with pytest.raises(RuntimeError, match=rf"file is being .* {os.getpid()}\."):
            FileLock(path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with FileLock(path), FileLock(tmp_path / "other"):
        pass


def test_a_lock_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """Its holder may remove the file after it was opened here, before it is locked."""
    lock, place = file_lock._lock, tmp_path / "file.lock"
    n_calls = []

    def remove_and_lock(descriptor):
        n_calls.append(descriptor)
        if len(n_calls) == 1:
            place.unlink()
        lock(descriptor)

    monkeypatch.setattr(file_lock, "_lock", remove_and_lock)
    with FileLock(tmp_path / "file"):
        assert len(n_calls) == 2 and place.exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError("no locks available")

    monkeypatch.setattr(file_lock, "_lock", refuse)
    with FileLock(tmp_path / "file"):
        pass


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC])
def test_a_place_that_cannot_be_written(tmp_path, monkeypatch, code):
    def refuse(*args):
        raise OSError(code, "refused")

    with monkeypatch.context() as patch, ExitStack() as stack:
        patch.setattr(os, "open", refuse)
        stack.enter_context(FileLock(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_lost_by_an_error_is_free(tmp_path):
    lock = FileLock(tmp_path / "file")
    lock.__enter__()
    with pytest.warns(ResourceWarning):
        del lock
    with FileLock(tmp_path / "file"):
        pass


def test_a_file_that_is_no_lock_is_kept(tmp_path):
    place = tmp_path / "file.lock"
    for content in ("", "123"):  # of a process that was killed
        place.write_text(content)
        with FileLock(tmp_path / "file"):
            assert place.read_text() == str(os.getpid())
    place.write_text("precious")
    with pytest.raises(FileExistsError, match=r"file\.lock is not a lock"):
        FileLock(tmp_path / "file").__enter__()
    assert place.read_text() == "precious"
