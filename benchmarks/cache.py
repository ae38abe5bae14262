"""Measure the time and the disk space of the cache of embeddings.

    python benchmarks/cache.py                # 1,000,000 vectors; about 1 GB of disk
    python benchmarks/cache.py --n 100000

Needs numpy alone. The vectors have 384 features in float16, like those of
all-MiniLM-L6-v2. The file is made in a temporary folder and removed.
"""

import argparse
import platform
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

from skqprobe.embedders import EmbeddingCache
from skqprobe.embedders._cache import text_keys

N_FEATURES = 384
BATCH = 1000
LOOKUPS = 10_000


def make_batch(start, stop):
    """Make the keys and values of vectors number `start` to `stop`."""
    vectors = np.random.default_rng(start).normal(size=(stop - start, N_FEATURES))
    keys = text_keys({"model": "benchmark"}, [f"text {i}" for i in range(start, stop)])
    return keys, [vector.tobytes() for vector in vectors.astype(np.float16)]


def write(cache, n):
    """Write `n` vectors; return the seconds of all writes, and of each tenth."""
    seconds = []
    for start in range(0, n, BATCH):
        keys, values = make_batch(start, min(start + BATCH, n))
        begin = time.perf_counter()
        cache.write(keys, values)
        seconds.append(time.perf_counter() - begin)
    return sum(seconds), [sum(tenth) for tenth in np.array_split(seconds, 10)]


def look_up(cache, numbers):
    """Look up vectors; return the seconds."""
    keys = text_keys({"model": "benchmark"}, [f"text {i}" for i in numbers])
    begin = time.perf_counter()
    found = cache.read(keys)
    seconds = time.perf_counter() - begin
    assert len(found) == len(keys)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000, help="number of vectors")
    n = parser.parse_args().n
    print(f"python {platform.python_version()}, sqlite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder) / "embeddings.sqlite")
        seconds, tenths = write(cache, n)
        n_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        rng = np.random.default_rng(0)
        many = rng.choice(n, size=min(LOOKUPS, n), replace=False)
        first, second = look_up(cache, many), look_up(cache, many)
        ones = [look_up(cache, [number]) for number in rng.choice(n, size=100)]
        begin = time.perf_counter()
        assert len(cache) == n
        count = time.perf_counter() - begin
    raw = n * N_FEATURES * 2
    print(f"{n:,} vectors of {N_FEATURES} float16, {N_FEATURES * 2} bytes each")
    print(
        f"write, {BATCH} at a time  {seconds:8.2f} s  {seconds / n * 1e6:6.1f} us each"
    )
    print("    by tenths          " + " ".join(f"{tenth:.1f}" for tenth in tenths))
    for name, spent in ("first", first), ("second", second):
        print(
            f"look up {len(many):,}, {name:6} {spent:8.3f} s  "
            f"{spent / len(many) * 1e6:6.1f} us each"
        )
    print(f"look up one, median    {np.median(ones) * 1e6:8.0f} us")
    print(f"count                  {count:8.3f} s")
    print(f"file  {n_bytes / 1e6:8.1f} MB  {n_bytes / n:6.1f} bytes each")
    print(f"raw   {raw / 1e6:8.1f} MB  {raw / n:6.1f} bytes each")


if __name__ == "__main__":
    main()
