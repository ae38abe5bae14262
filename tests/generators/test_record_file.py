"""The file of collect: damage, other writers, and failures to write."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from skqprobe.generators import BaseGenerator, collect, load_records

K = 2
PROMPTS = ["a", "b", "c"]


class Echo(BaseGenerator):
    def __init__(self, progress=False):
        self.progress = progress

    def sample(self, prompt, k):
        return {"prompt": prompt, "completions": [f"{prompt}{i}" for i in range(k)]}


def one(item, completion):
    return 1


def collect_to(path, prompts=PROMPTS, reward=one, **options):
    options = {"reward_concurrency": 1, **options}
    return collect(prompts, Echo(), reward, K, path=path, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


@pytest.fixture
def lines(path):
    """The lines of a complete file: each record, followed by its two rewards."""
    collect_to(path)
    return path.read_bytes().splitlines(keepends=True)


DAMAGE = {
    "changed": (2, lambda lines: [lines[0], lines[1].replace(b"1.0", b"7.0")]),
    "removed": (2, lambda lines: [lines[0], *lines[2:]]),
    "repeated": (3, lambda lines: [*lines[:2], *lines[1:]]),
    "repeated record": (4, lambda lines: [*lines[:3], lines[0]]),
    "swapped": (2, lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]),
    "joined": (10, lambda lines: lines * 2),
    "joined record": (
        4,
        lambda lines: [*lines[:3], *lines[3:6], lines[0]][:3] + lines[6:],
    ),
    "without check": (5, lambda lines: [*lines[:4], lines[4][:40] + b"}\n"]),
    "end of line": (1, lambda lines: [lines[0][:-1] + b"\r\n", *lines[1:]]),
    "blank": (2, lambda lines: [lines[0], b"\n", *lines[1:]]),
    "notes after it": (10, lambda lines: [*lines, b"A diary."]),
    "another object": (10, lambda lines: [*lines, b'{"position": 1}']),
    "zeros of a crash": (10, lambda lines: [*lines, bytes(100)]),
    "no first byte": (1, lambda lines: [lines[0][1:], *lines[1:]]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_damaged_line_is_named_and_the_file_is_kept(path, lines, damage):
    number, change = DAMAGE[damage]
    content = b"".join(change(lines))
    path.write_bytes(content)
    for read in (collect_to, load_records):
        with pytest.raises(ValueError, match=f"Line {number} of .*give another path"):
            read(path)
    assert path.read_bytes() == content
    # What the message says: without this line and all after it, the rest is kept.
    path.write_bytes(b"".join(content.splitlines(keepends=True)[: number - 1]))
    n_known = np.isfinite(load_records(path).y).sum()
    calls = []
    collect_to(path, reward=lambda *args: calls.append(args) or 1)
    assert len(calls) == K * len(PROMPTS) - n_known


def test_two_files_are_not_joined_in_silence(path, lines, tmp_path):
    other = tmp_path / "other.jsonl"
    collect_to(other, prompts=["d", "e"])
    path.write_bytes(path.read_bytes() + other.read_bytes())
    with pytest.raises(ValueError, match=r"Line 10 of .* files were joined"):
        collect_to(path)


PLAIN = [
    {
        "prompt": "a",
        "completions": ["x", "y"],
        "rewards": [1, None],
        "errors": {"1": "E"},
    },
    {"prompt": "b", "completions": ["z", "w"], "rewards": [0.5, 0]},
]


def write_plain(path, records, settings=None):
    lines = [json.dumps(record | (settings or {})) for record in records]
    path.write_text("\n".join(lines))


def test_a_file_of_an_earlier_version_is_continued(path):
    generator = {"class": f"{Echo.__module__}.Echo"}
    records = [record | {"position": 1 - i} for i, record in enumerate(PLAIN)]
    write_plain(path, records, {"generator": generator})
    content = path.read_bytes()
    calls = []
    for _ in range(2):
        found = collect_to(path, ["b", "a", "c"], lambda *a: calls.append(a) or 3)
        assert [r["rewards"] for r in found] == [[0.5, 0], [1, 3], [3, 3]]
        assert found[1]["completions"] == ["x", "y"] and "errors" not in found[1]
    assert calls == [("a", "y"), ("c", "c0"), ("c", "c1")]
    assert path.read_bytes().startswith(content)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a", "completions": ["x"]},
        {"prompt": "a", "completions": "x", "rewards": [1]},
        {"prompt": "a", "completions": [1], "rewards": [1]},
        {"prompt": "a", "completions": ["x"], "rewards": [1, 2]},
        {"prompt": "a", "completions": ["x"], "rewards": [float("nan")]},
        {"completions": ["x"], "rewards": [1]},
        {"position": -1, "prompt": "a", "completions": ["x"], "rewards": [1]},
        {"position": 0, "prompt": "a", "completions": ["x"], "rewards": [1]},
    ],
)
def test_a_line_that_is_no_record_is_named(path, record):
    write_plain(path, [PLAIN[0] | {"position": 0}, record])
    with pytest.raises(ValueError, match="Line 2 of"):
        load_records(path)


def test_a_plain_record_after_lines_of_collect_is_refused(path, lines):
    path.write_bytes(b"".join(lines) + json.dumps(PLAIN[0]).encode())
    with pytest.raises(ValueError, match="Line 10 of"):
        load_records(path)


HOLD = """
import sys
from skqprobe._utils.file_lock import FileLock
with FileLock(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_writes(path, lines):
    content = path.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(RuntimeError, match=f"written by process {process.pid}"):
            collect_to(path, rescore=True)
        assert len(load_records(path).records) == len(PROMPTS)  # reading needs no lock
        process.kill()
    assert path.read_bytes() == content
    collect_to(path, [*PROMPTS, "d"])  # the lock of a killed process does not last
    assert os.listdir(path.parent) == ["records.jsonl"]


def test_a_second_thread_is_told_who_writes(path):
    errors = []

    def second():
        try:
            collect_to(path)
        except RuntimeError as error:
            errors.append(str(error))

    def reward(item, completion):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return 1

    collect_to(path, reward=reward)
    assert len(errors) == K * len(PROMPTS)
    assert all(f"written by process {os.getpid()}" in error for error in errors)
    assert len(load_records(path).records) == len(PROMPTS)


def test_another_writer_is_detected_without_a_lock(path):
    def reward(item, completion):
        if completion == "b1":
            with open(path, "ab") as file:
                file.write(b"another line\n")
        return 1

    with pytest.raises(RuntimeError, match="changed by another program"):
        collect_to(path, reward=reward)
    assert path.read_bytes().endswith(b"another line\n")  # nothing was cut off


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted")
def test_a_file_that_was_deleted_is_detected(path):
    with pytest.raises(RuntimeError, match="deleted by another program"):
        collect_to(path, reward=lambda *_: path.unlink() or 1)


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")
def test_links_and_modes_are_kept(path, tmp_path):
    target = tmp_path / "elsewhere.txt"
    target.write_text("precious")
    for suffix in (".new", ".lock"):
        link = Path(f"{path}{suffix}")
        link.symlink_to(target)
        if suffix == ".lock":
            with pytest.raises(OSError):
                collect_to(path)
        else:
            collect_to(path, PROMPTS[:1])
        link.unlink()
    path.chmod(0o600)
    linked = tmp_path / "link.jsonl"
    linked.symlink_to(path)
    collect_to(linked, rescore=True)
    assert path.stat().st_mode & 0o777 == 0o600 and linked.is_symlink()
    assert target.read_text() == "precious"


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    collect_to("~/records.jsonl")
    assert (tmp_path / "records.jsonl").exists()
    assert len(load_records("~/records.jsonl").records) == len(PROMPTS)


def test_a_full_disk_keeps_what_was_written(path):
    """The limit of a file's size has the effect of a full disk: a part is written."""
    resource = pytest.importorskip("resource")
    collect_to(path, PROMPTS[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    calls = []

    def reward(item, completion):
        calls.append(completion)
        return 1

    n_failures = 0
    for size in range(path.stat().st_size, path.stat().st_size + 2000, 35):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            records = collect_to(path, reward=reward)
            break
        except OSError as error:
            n_failures += 1
            assert str(path) in str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes().endswith(b"}\n")  # no part of a line
    assert n_failures > 10
    assert [record["rewards"] for record in records] == [[1, 1]] * 3
    assert len(calls) <= 4 + n_failures  # at most one reward is lost per failure
    assert os.listdir(path.parent) == ["records.jsonl"]


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_complete_file_in_a_folder_that_cannot_be_written(path, lines):
    path.parent.chmod(0o500)
    try:
        assert len(collect_to(path)) == len(PROMPTS)
    finally:
        path.parent.chmod(0o700)
