"""EmbeddingCache: content, keys, concurrent use, damage."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import skqprobe.embedders._cache as cache_module
from skqprobe.embedders import EmbeddingCache, VectorizerEmbedder
from skqprobe.embedders._cache import CHUNK, text_keys

ROOT = Path(__file__).parents[2]
# Only the cache and what it imports: importing the package takes a second, and some of
# these tests start many processes.
BEGIN = f"""
import sys
import types

args = sys.argv[1:]
sys.path.insert(0, {str(Path(cache_module.__file__).parent)!r})
package = sys.modules["skqprobe"] = types.ModuleType("skqprobe")
package.__path__ = [{str(Path(cache_module.__file__).parents[1])!r}]
"""


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache.sqlite")


def start(code, *arguments, **options):
    """Start a process that runs `code`, with the arguments in `args`."""
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        text=True,
        **options,
    )


def run(code, *arguments):
    """Return what a process prints."""
    process = start(code, *arguments, stdout=subprocess.PIPE)
    printed, _ = process.communicate()
    assert process.returncode == 0
    return printed


def test_reading_does_not_create_the_file(cache):
    assert cache.read([b"key"]) == []
    assert len(cache) == 0
    cache.clear()
    assert not Path(cache.path).exists()


def test_the_last_value_is_kept(tmp_path):
    cache = EmbeddingCache(str(tmp_path / "new" / "folder" / "cache.sqlite"))
    cache.write([b"a", b"b"], [b"1", b"2"])
    cache.write([b"b"], [b"3"])
    assert sorted(cache.read([b"a", b"b"])) == [(0, b"1"), (1, b"3")]


def test_many_keys(cache):
    n = 2 * CHUNK + 17
    keys = text_keys({}, [f"text {i}" for i in range(n)])
    cache.write(keys, [str(i).encode() for i in range(n)])
    assert len(cache) == n
    asked = [*reversed(keys), *text_keys({}, ["unknown"])]
    found = dict(cache.read(asked))
    assert found == {n - 1 - i: str(i).encode() for i in range(n)}


def test_a_batch_is_written_completely_or_not_at_all(cache):
    with pytest.raises(OSError, match=r"cache\.sqlite"):
        cache.write([b"a", None], [b"1", b"2"])
    assert len(cache) == 0


def test_clear_frees_the_space(cache):
    def n_bytes():
        return sum(file.stat().st_size for file in Path(cache.path).parent.iterdir())

    keys = text_keys({}, [str(i) for i in range(500)])
    cache.write(keys, [b"x" * 1000] * 500)
    with_values = n_bytes()
    cache.clear()
    assert len(cache) == 0
    assert cache.read(keys) == []
    assert n_bytes() < with_values / 10


def test_max_bytes(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite", max_bytes=300_000)
    keys = text_keys({}, [str(i) for i in range(1000)])
    for i in range(0, 1000, 50):
        cache.write(keys[i : i + 50], [b"x" * 1000] * 50)
        file = Path(cache.path).stat().st_size
        assert file <= 300_000 * 1.5
    kept = sorted(number for number, _ in cache.read(keys))
    # The newest are stored, without a gap, and as many as there is space for.
    assert kept == list(range(1000 - len(kept), 1000))
    assert 150 <= len(kept) <= 300


def test_bad_max_bytes():
    for max_bytes in (0, -1):
        with pytest.raises(ValueError, match=f"max_bytes must be .*; got {max_bytes}"):
            EmbeddingCache("cache.sqlite", max_bytes)


@given(st.lists(st.text(), unique=True))
def test_another_text_another_key(texts):
    assert len(set(text_keys({"model": "m"}, texts))) == len(texts)


def test_settings_and_texts_make_different_keys():
    different = [
        ({"model": "m"}, "a"),
        ({"model": "n"}, "a"),
        ({"model": "m", "layer": 1}, "a"),
        ({"model": "m", "layer": None}, "a"),
        ({"model": "m"}, ("a",)),
        ({"model": "m"}, ("a", "b")),
        ({"model": "m"}, ("ab", "")),
        ({"model": "m"}, "ab"),
    ]
    keys = {text_keys(settings, [text])[0] for settings, text in different}
    assert len(keys) == len(different)
    assert text_keys({"a": 1, "b": 2}, "t") == text_keys({"b": 2, "a": 1}, "t")


def lengths(texts):
    return [[len(text), 1.0] for text in texts]


def n_embedded(cache, texts=("a", "bb"), **settings):
    """Return how many texts an embedder with these settings adds to the cache."""
    before = len(cache)
    settings = {"revision": "1", **settings}
    VectorizerEmbedder(lengths, cache=cache, **settings).transform(texts)
    return len(cache) - before


def test_settings_make_other_keys(cache):
    assert n_embedded(cache) == 2
    assert n_embedded(cache) == 0
    assert n_embedded(cache, texts=["bb", "ccc"]) == 1
    assert n_embedded(cache, revision="2") == 2
    assert n_embedded(cache, dtype="float16") == 2
    for same in ({"batch_size": 1}, {"join": " "}, {"progress": False}):
        assert n_embedded(cache, **same) == 0
    # `join` is in the text.
    assert n_embedded(cache, texts=[("p", "c")], join=" ") == 1
    assert n_embedded(cache, texts=["p c"]) == 0
    assert n_embedded(cache, texts=[("p", "c")], join="") == 1


EMBED = """
    from skqprobe.embedders import VectorizerEmbedder

    embedded = []

    def embed(texts):
        embedded.extend(texts)
        return [[len(text), float(text.count("1"))] for text in texts]

    path, first, last = args[0], int(args[1]), int(args[2])
    texts = [f"text {i}" for i in range(first, last)]
    embedder = VectorizerEmbedder(embed, cache=path, revision="1")
    print(embedder.transform(texts).sum(), len(embedded))
"""


def test_a_second_process_embeds_nothing(cache):
    value, n_embedded = run(EMBED, cache.path, 0, 500).split()
    assert n_embedded == "500"
    assert run(EMBED, cache.path, 0, 500).split() == [value, "0"]
    assert run(EMBED, cache.path, 250, 600).split()[1] == "100"


WRITE = """
    from _cache import EmbeddingCache, text_keys

    cache, name = EmbeddingCache(args[0]), args[1]
    print("ready", flush=True)
    sys.stdin.readline()
    for batch in range(int(args[2])):
        texts = [f"{name} {batch} {i}" for i in range(20)]
        both = [f"both {batch} {i}" for i in range(20)]
        cache.write(text_keys({}, texts + both), [t.encode() for t in texts + both])
        assert len(cache.read(text_keys({}, texts + both))) == 40
"""


def write_at_once(cache, names, n_batches):
    """Start a writer for each name, let them begin together, and look at the file."""
    options = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    writers = [start(WRITE, cache.path, name, n_batches, **options) for name in names]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    errors = [writer.communicate()[1] for writer in writers]
    assert errors == [""] * len(writers)
    texts = [
        f"{name} {batch} {i}"
        for name in (*names, "both")
        for batch in range(n_batches)
        for i in range(20)
    ]
    found = dict(cache.read(text_keys({}, texts)))
    assert found == {i: text.encode() for i, text in enumerate(texts)}


def test_two_processes_write_at_once(cache):
    cache.write([b"key"], [b"value"])
    write_at_once(cache, "ab", 40)


def test_processes_create_the_file_at_once(tmp_path):
    for number in range(8):
        write_at_once(EmbeddingCache(tmp_path / f"{number}.sqlite"), "abcdef", 1)


def test_threads_use_one_cache(cache):
    def work(name):
        for batch in range(10):
            texts = [f"{name} {batch} {i}" for i in range(10)]
            cache.write(text_keys({}, texts), [t.encode() for t in texts])
            assert len(cache.read(text_keys({}, texts))) == 10

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(cache) == 400


WRITE_ON = """
    from _cache import EmbeddingCache

    cache, batch = EmbeddingCache(args[0]), int(args[1])
    while True:
        keys = [b"%d %d" % (batch, i) for i in range(50)]
        cache.write(keys, [key * 100 for key in keys])
        print(batch, flush=True)
        batch += 1
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on Windows")
def test_killed_at_any_moment(cache):
    moments = random.Random(0)
    n_there = 0
    for number in range(30):
        process = start(WRITE_ON, cache.path, n_there, stdout=subprocess.PIPE)
        lines = []
        if number % 3:  # otherwise it may be killed before its first batch
            lines.append(process.stdout.readline())
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        lines += process.communicate()[0].splitlines(keepends=True)
        assert process.returncode == -signal.SIGKILL
        reported = [int(line) for line in lines if line.endswith("\n")]
        n_reported = max(reported, default=n_there - 1) + 1
        if Path(cache.path).exists():
            with closing(sqlite3.connect(cache.path)) as connection:
                check = connection.execute("PRAGMA integrity_check")
                assert check.fetchall() == [("ok",)]
        # Reported batches are stored, complete and correct. The batch in progress is
        # stored completely or not at all.
        keys = [b"%d %d" % (b, i) for b in range(n_reported + 1) for i in range(50)]
        found = dict(cache.read(keys))
        assert len(found) in (50 * n_reported, 50 * (n_reported + 1))
        assert all(value == keys[i] * 100 for i, value in found.items())
        assert all(i in found for i in range(50 * n_reported))
        n_there = len(found) // 50
    assert n_there >= 20


calls: list = []  # a captured variable would be a part of the key


def counted_lengths(texts):
    calls.extend(texts)
    return lengths(texts)


def test_a_damaged_value_is_computed_again(cache):
    calls.clear()
    embedder = VectorizerEmbedder(counted_lengths, cache=cache, revision="1")
    right = embedder.transform(["a", "bb", "ccc"])
    calls.clear()
    damaged = np.array([99, 1], dtype=np.float32).tobytes()
    with closing(sqlite3.connect(cache.path)) as connection, connection:
        connection.execute(
            "UPDATE embeddings SET value = ? WHERE value = ?",
            (damaged, right[1].tobytes()),
        )
    with pytest.warns(RuntimeWarning, match=r"1 embeddings in the cache .*sqlite are"):
        again = embedder.transform(["a", "bb", "ccc"])
    np.testing.assert_array_equal(again, right)
    embedder.transform(["a", "bb", "ccc"])  # fixed: no warning
    assert calls == ["bb"]


def test_damaged_bytes_on_the_disk(cache):
    rows = [b"%04d" % i for i in range(200)]
    cache.write(rows, [row * 200 for row in rows])
    content = bytearray(Path(cache.path).read_bytes())
    where = content.index(b"0123" * 100) + 50
    content[where : where + 3] = b"\xff\xff\xff"
    Path(cache.path).write_bytes(content)
    with pytest.warns(RuntimeWarning, match="1 embeddings"):
        found = dict(cache.read(rows))
    assert sorted(found) == [i for i in range(200) if i != 123]
    assert all(value == rows[i] * 200 for i, value in found.items())


@pytest.mark.parametrize("method", ["read", "write", "clear", "len"])
@pytest.mark.parametrize(
    "content",
    [b"this is no database" * 100, b"prompt,completion\n", b"SQLite format 3\0" * 400],
    ids=["text", "short text", "header only"],
)
def test_a_file_that_is_not_a_cache(cache, method, content):
    Path(cache.path).write_bytes(content)
    uses = {
        "read": lambda: cache.read([b"key"]),
        "write": lambda: cache.write([b"key"], [b"value"]),
        "clear": cache.clear,
        "len": lambda: len(cache),
    }
    message = r"cache\.sqlite is damaged, or is not a cache.*Remove the file"
    with pytest.raises(OSError, match=message):
        uses[method]()
    assert Path(cache.path).read_bytes() == content


def test_a_folder_in_place_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"cannot be used.* give another path"):
        EmbeddingCache(tmp_path).write([b"key"], [b"value"])


def test_another_dimension_under_the_same_name(cache):
    def changed(texts):
        return np.ones((len(texts), 2 if "b" not in texts else 3))

    embedder = VectorizerEmbedder(changed, cache=cache, revision="1").fit(["a"])
    message = "embedding of a text has 3 features, others have 2.* clear the cache"
    with pytest.raises(ValueError, match=message):
        embedder.transform(["a", "b"])


every_use = pytest.mark.parametrize(
    "use",
    [len, EmbeddingCache.clear, lambda c: c.read([b"k"]), lambda c: c.write([], [])],
    ids=["len", "clear", "read", "write"],
)


@every_use
def test_a_database_of_another_program_is_not_changed(tmp_path, use):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE embeddings (value)")
        connection.execute("INSERT INTO embeddings VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(
        OSError, match=r"not a cache of embeddings\. It was not changed"
    ):
        use(EmbeddingCache(path))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]


@every_use
def test_a_cache_of_another_version_is_not_changed(cache, use):
    cache.write([b"key"], [b"value"])
    with closing(sqlite3.connect(cache.path)) as connection, connection:
        connection.execute("PRAGMA user_version=1")
        connection.execute("PRAGMA journal_mode=DELETE")
    before = cache.path.read_bytes()
    with pytest.raises(OSError, match=r"of another version .* was not changed\."):
        use(cache)
    assert cache.path.read_bytes() == before
    assert [file.name for file in cache.path.parent.iterdir()] == [cache.path.name]


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_that_is_no_file(path):
    with pytest.raises(ValueError, match="path must be the path of a file"):
        EmbeddingCache(path)


def test_the_home_folder_and_links(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    cache = EmbeddingCache("~/new/cache.sqlite")
    cache.write([b"key"], [b"value"])
    assert EmbeddingCache(tmp_path / "new" / "cache.sqlite").read([b"key"])
    (tmp_path / "link").symlink_to(tmp_path / "other" / "cache.sqlite")
    linked = EmbeddingCache(tmp_path / "link")  # the file does not exist yet
    linked.write([b"key"], [b"value"])
    assert len(linked) == len(EmbeddingCache(tmp_path / "other" / "cache.sqlite")) == 1
    assert (tmp_path / "link").is_symlink()


@pytest.fixture
def unwritable():
    """Context in which a folder and its files cannot be written, even by root."""

    @contextmanager
    def unwritable(folder):
        paths = [*folder.iterdir(), folder]
        modes = [path.stat().st_mode for path in paths]
        for path in paths:
            path.chmod(0o555)
        is_root = os.geteuid() == 0
        try:
            if is_root:
                os.seteuid(65534)
            yield
        finally:
            if is_root:
                os.seteuid(0)
            for path, mode in zip(paths, modes, strict=True):
                path.chmod(mode)

    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has no such permissions")
    return unwritable


@pytest.fixture
def public_folder():
    """A folder that other users can read, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_cache_that_cannot_be_written_is_read(public_folder, unwritable):
    cache = EmbeddingCache(public_folder / "cache.sqlite")

    def embedder():
        return VectorizerEmbedder(lengths, cache=cache, revision="1", batch_size=1)

    X = embedder().transform(["a", "bb"])
    with unwritable(public_folder):
        np.testing.assert_array_equal(embedder().transform(["bb", "a"]), X[::-1])
        assert len(cache) == 2
        with pytest.warns(
            RuntimeWarning, match=r"The cache .* cannot be used"
        ) as caught:
            more = embedder().transform(["bb", "ccc", "dddd"])
        assert len(caught) == 1
        assert "returned, but from here on they are not stored" in str(
            caught[0].message
        )
        np.testing.assert_array_equal(more, lengths(["bb", "ccc", "dddd"]))
        with pytest.raises(OSError, match="file and its folder can be written"):
            cache.clear()
        # Without a file, too.
        new = EmbeddingCache(public_folder / "new" / "cache.sqlite")
        with pytest.warns(RuntimeWarning, match=r"Permission denied.* not stored"):
            VectorizerEmbedder(lengths, cache=new, revision="1").transform(["a"])
    assert len(cache) == 2


def test_an_empty_file_that_cannot_be_written(public_folder, unwritable):
    """A full disk leaves a file without content."""
    path = public_folder / "cache.sqlite"
    path.touch()
    embedder = VectorizerEmbedder(lengths, cache=path, revision="1")
    with unwritable(public_folder):
        assert EmbeddingCache(path).read([b"key"]) == []
        assert len(EmbeddingCache(path)) == 0
        with pytest.warns(RuntimeWarning, match="not stored"):
            assert embedder.transform(["abc"])[0, 0] == 3
    assert path.read_bytes() == b""


def test_a_disk_error_on_a_full_disk_is_named(cache, monkeypatch):
    def fail(connection):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr(cache_module, "_use_write_ahead_log", fail)
    with pytest.raises(OSError, match=r"disk I/O error\. Check that the file"):
        cache.write([b"key"], [b"value"])
    monkeypatch.setattr(
        cache_module, "disk_usage", lambda folder: SimpleNamespace(free=0)
    )
    with pytest.raises(OSError, match=r"disk I/O error\. The disk is full: free space"):
        cache.write([b"key"], [b"value"])


class FailsOnce(VectorizerEmbedder):
    def embed_batch(self, texts):
        if len(calls) == 35 and "failed" not in calls:
            calls.append("failed")
            raise RuntimeError("the backend fails")
        calls.extend(texts)
        return np.ones((len(texts), 500)) * len(texts[0])


def test_a_full_disk_loses_nothing(cache, monkeypatch):
    """Embeddings that cannot be stored are returned, and kept if an error follows."""
    prepare = cache_module._use_write_ahead_log

    def fill_the_disk(connection):
        prepare(connection)
        connection.execute("PRAGMA max_page_count=10")

    monkeypatch.setattr(cache_module, "_use_write_ahead_log", fill_the_disk)
    texts = [str(number) * 5 for number in range(40)]
    calls.clear()
    embedder = FailsOnce(len, cache=cache, revision="1", batch_size=1)
    message = r"database or disk is full\. The disk is full: free space.* not stored"
    with (
        pytest.warns(RuntimeWarning, match=message) as caught,
        pytest.raises(RuntimeError, match="the backend fails"),
    ):
        embedder.transform(texts)
    assert len(caught) == 1
    assert 5 < len(cache) < 35
    with pytest.warns(RuntimeWarning, match=message):
        X = embedder.transform(texts)
    np.testing.assert_array_equal(X[:, 0], [len(text) for text in texts])
    assert len(calls) == len(set(calls)) == 41
