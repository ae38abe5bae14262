"""Measure fits on a Dask cluster of one machine: speed, messages, data on disk, a peer.

    python benchmarks/dask_scale.py                  # X of 2 GB; takes 15 minutes
    python benchmarks/dask_scale.py --scale 1/100 --gigabytes 0.1
    python benchmarks/dask_scale.py --only disk --gigabytes 50 --memory 2GiB

The data are candidate sets, made from a seed: 8 candidates of 128 features in float32,
and rewards of 0 or 1 by a logistic model of them. Workers are processes of one thread.

**Sections**, as `--only` names them:

- fit: `QProbePolicy("log_loss")` with at most 10 iterations, in one process with one
  thread, and on 1 and 2 workers that hold the same data. The efficiency is the time of
  1 worker over twice that of 2 workers; the overhead is the time of 1 worker over that
  of the process. On a busy machine, look at the CPU time of all processes (cpu_s),
  which does not depend on the load; its efficiency is that of 1 worker over that of 2.
- messages: computations, tasks and bytes per evaluation, counted on a small fit; and a
  model of the time of an evaluation on up to 1,000 workers. The model is not measured:
  it adds the time of the product at an assumed rate, the time of the scheduler per
  task, and that of the messages of theta and of the sums.
- disk: fits to X of `--gigabytes` in float32, in a Zarr file, which does not fit in
  the memory of 2 workers, `--memory` each. Here X is rounded to sixteenths, so that the
  compressed file has a third of its size. The file is deleted at the end. The reads are
  counted: one is a read of all of X.
- peer: LightGBM's DaskLGBMRanker on 2 workers, with 100 trees; and `QProbePolicy` on
  the same data: time of the fit, and mean reward of the choice for other prompts.
"""

import os
import pickle
import shutil
import tempfile
import time
import warnings
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from unittest import mock

import dask
import dask.array as da
import numpy as np
import zarr
from _command import check_scale, machine, make_parser, versions
from _output import print_pairs, write_json
from _timing import fit_quietly, seconds_of
from distributed import Client, LocalCluster, wait
from zarr.codecs import BloscCodec

from skqprobe import QProbePolicy
from skqprobe._arrays import collections, part_rows
from skqprobe.metrics import base_reward, expected_reward

K, D, PROMPTS_AT_ONCE, DISK_PROMPTS = 8, 128, 122_000, 16_000
MAX_ITER = 10
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Environment of the workers. Dask makes the C library of Linux return all freed memory
at once, and to get it again takes time. A worker that keeps much more of it would be
paused by Dask for the memory that it seems to use."""

SECTIONS = ("fit", "messages", "disk", "peer")
SECONDS_PER_TASK, LATENCY, BANDWIDTH = 3e-4, 1e-3, 1e9
"""Assumptions of the model: time of the scheduler per task, of a message between
machines, and bytes per second between them. Dask's documentation gives 200 to 500
microseconds per task."""


def make_block(number, n_prompts, signal=0.5):
    """Make embeddings (n_prompts, K, D) and rewards (n_prompts, K) of a partition."""
    rng = np.random.default_rng(number)
    X = rng.standard_normal((n_prompts, K, D), np.float32)
    w = np.random.default_rng(0).standard_normal(D) / D**0.5
    y = rng.logistic(size=(n_prompts, K)) < signal * 4 * (X @ w.astype(np.float32))
    return X, y.astype(np.float64)


def make_arrays(n_prompts, first=0, at_once=PROMPTS_AT_ONCE):
    """Make Dask arrays X and y, whose blocks are made on the workers."""
    sizes = [at_once] * (n_prompts // at_once)
    sizes += [n_prompts % at_once] if n_prompts % at_once else []
    make = dask.delayed(make_block, nout=2)
    parts = [(make(first + i, n), n) for i, n in enumerate(sizes)]
    X = [da.from_delayed(p[0], (n, K, D), np.float32) for p, n in parts]
    y = [da.from_delayed(p[1], (n, K), np.float64) for p, n in parts]
    return da.concatenate(X), da.concatenate(y)


@contextmanager
def cluster(n_workers, memory="auto"):
    """Start a cluster of processes of one thread, and a client of it."""
    settings = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        mock.patch.dict(os.environ, ENVIRONMENT),
        LocalCluster(n_workers=n_workers, memory_limit=memory, **settings) as found,
        Client(found) as client,
    ):
        yield client


def make_policy():
    return QProbePolicy("log_loss", max_iter=MAX_ITER)


# %% Sections


def timed_fit(X, y, client=None):
    """Fit twice; return the shorter time, the CPU time of all processes, the policy."""
    policy, times = make_policy(), []
    for _ in range(2):
        before = cpu_seconds(client)
        seconds = seconds_of(lambda: fit_quietly(policy, X, y))
        times.append((seconds, cpu_seconds(client) - before))
    return *np.min(times, axis=0).tolist(), policy


def cpu_seconds(client):
    """Return the CPU time of this process and of the workers of a client."""
    of_workers = client.run(time.process_time).values() if client else []
    return time.process_time() + sum(of_workers)


def measure_fit(n_prompts):
    """Time fits in one process and on workers that hold the data."""
    with dask.config.set(scheduler="synchronous"):
        X, y = dask.compute(*make_arrays(n_prompts))
    figures = {"x_gb": X.nbytes / 1e9}
    figures["process_s"], figures["process_cpu_s"], expected = timed_fit(X, y)
    del X, y
    for n_workers in (1, 2):
        name = f"workers_{n_workers}"
        with cluster(n_workers, memory=None) as client:
            X, y = dask.persist(*make_arrays(n_prompts))
            wait([X, y])
            found = timed_fit(X, y, client)
            figures[f"{name}_s"], figures[f"{name}_cpu_s"], policy = found
            del X, y
        difference = abs(policy.coef_ - expected.coef_).max()
        figures["difference"] = float(difference / abs(expected.coef_).max())
    for kind in ("s", "cpu_s"):
        one, two, process = (
            figures[f"{each}_{kind}"] for each in ("workers_1", "workers_2", "process")
        )
        # Two workers divide the time, not the CPU time.
        figures[f"efficiency_{kind}"] = one / two / (2 if kind == "s" else 1)
        figures[f"overhead_{kind}"] = one / process
    return figures


def measure_messages():
    """Count what an evaluation sends, and model its time on many workers."""
    counts = []
    original = collections.Parts.total

    def counting(self, function, *shared, **options):
        result = original(self, function, *shared, **options)
        n_sums, n = 0, len(self)
        while n > 1 or n_sums == 0:
            n = -(-n // collections.FAN_IN)
            n_sums += n
        sent, sums = len(pickle.dumps(shared)), len(pickle.dumps(result))
        counts.append((len(self) + n_sums, sent, sums))
        return result

    X, y = make_arrays(1000)
    X, y = X.rechunk((100, K, D)), y.rechunk((100, K))
    with (
        dask.config.set(scheduler="synchronous"),
        mock.patch.object(collections.Parts, "total", counting),
        mock.patch(
            "skqprobe._objectives.distributed.DistributedGrid.value_and_gradient",
            autospec=True,
            side_effect=_evaluate_alone(counts),
        ),
    ):
        fit_quietly(make_policy(), X, y)
    tasks, sent, sums = counts[-1]
    figures = {"d": D, "rounds": 1, "bytes_to_a_worker": sent, "bytes_of_a_sum": sums}
    figures["tasks_of_10_parts"] = tasks
    return figures


def _evaluate_alone(counts):
    """Keep the counts of the last evaluation only."""
    from skqprobe._objectives.distributed import DistributedGrid

    original = DistributedGrid.value_and_gradient

    def evaluate(*arguments):
        counts.clear()
        return original(*arguments)

    return evaluate


def model_evaluation(n_workers, n_bytes, sent, sums, rate, parts_per_worker=4):
    """Model the seconds of an evaluation of X, at `rate` bytes/s per worker."""
    n_parts = n_workers * parts_per_worker
    levels = int(np.ceil(np.log(n_parts) / np.log(collections.FAN_IN)))
    product = n_bytes / n_workers / rate
    messages = (sent * np.log2(n_workers + 1) + levels * collections.FAN_IN * sums) / (
        BANDWIDTH
    )
    tasks = SECONDS_PER_TASK * n_parts * (1 + 1 / (collections.FAN_IN - 1))
    return product, tasks, messages + LATENCY * (levels + 2)


def measure_disk(gigabytes, memory, folder):
    """Fit to a Zarr file that does not fit in the memory of the workers."""
    n_prompts = max(1000, int(gigabytes * 1e9 / (K * D * 4)))
    place = Path(tempfile.mkdtemp(dir=folder))
    figures = {"gigabytes": n_prompts * K * D * 4 / 1e9, "memory": memory}
    spills = {"temporary-directory": str(place / "spilled")}
    try:
        with dask.config.set(spills), cluster(2, memory) as client:
            figures["write_s"] = seconds_of(lambda: write_arrays(n_prompts, place))
            sizes = (each.stat().st_size for each in place.rglob("c/**/*"))
            figures["file_gb"] = sum(sizes) / 1e9
            X, y = (da.from_zarr(str(place / name)) for name in ("X.zarr", "y.zarr"))
            for policy in (QProbePolicy("squared_error"), make_policy()):
                before = cpu_seconds(client)
                with counted_reads(client) as reads:
                    call = seconds_of(lambda: fit_quietly(policy, X, y))  # noqa: B023
                figures[f"{policy.loss}_s"] = call
                figures[f"{policy.loss}_cpu_s"] = cpu_seconds(client) - before
                figures[f"{policy.loss}_reads"] = sum(reads) / X.npartitions
            figures["peak_mib"] = max(client.run(_peak_mib).values())
            figures["reward"] = float(policy.score(X[:10_000], y[:10_000]))
    finally:
        shutil.rmtree(place)
    return figures


def write_arrays(n_prompts, place):
    """Write X, of numbers with few digits, and y to Zarr files."""
    X, y = make_arrays(n_prompts, at_once=DISK_PROMPTS)
    X = X.map_blocks(_round_to_sixteenths)
    codec = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
    files = [
        zarr.create_array(
            str(place / name),
            shape=each.shape,
            chunks=each.chunksize,
            dtype=each.dtype,
            compressors=codec,
        )
        for name, each in (("X.zarr", X), ("y.zarr", y))
    ]
    da.store([X, y], files, lock=False)


def _round_to_sixteenths(X):
    X *= 16
    np.rint(X, out=X)
    X /= 16
    return X


@contextmanager
def counted_reads(client):
    """Count on the workers how often a block of X is read again."""
    client.run(_count_reads)
    reads: list = []
    yield reads
    reads.extend(client.run(_n_reads).values())


def _count_reads():
    original = getattr(part_rows.Recipe, "original", part_rows.Recipe.__call__)
    part_rows.Recipe.original, part_rows.Recipe.n_reads = original, 0

    def call(self):
        part_rows.Recipe.n_reads += 1
        return original(self)

    part_rows.Recipe.__call__ = call


def _n_reads():
    return part_rows.Recipe.n_reads


def _peak_mib():
    """Return the peak of the resident memory of a worker."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_peer(n_prompts):
    """Compare with LightGBM's ranker, on the same data and workers."""
    from lightgbm import DaskLGBMRanker

    figures = {"n_prompts": n_prompts}
    with cluster(2, memory=None) as client:
        X, y = (
            each.rechunk({0: -(-n_prompts // 4)}).persist()
            for each in make_arrays(n_prompts)
        )
        test_X, test_y = dask.compute(*make_arrays(n_prompts // 4, first=10_000))
        wait([X, y])
        policy = make_policy()
        figures["policy_s"] = seconds_of(lambda: fit_quietly(policy, X, y))
        figures["policy"] = policy.score(test_X, test_y)
        rows = X.reshape(-1, D).rechunk({1: -1}).persist()
        targets = y.reshape(-1).astype(int).persist()
        sizes = da.full(n_prompts, K, chunks=X.chunks[0], dtype=int).persist()
        wait([rows, targets, sizes])
        ranker = DaskLGBMRanker(
            client=client,
            n_estimators=100,
            verbose=-1,
            num_threads=1,
            tree_learner="data",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures["lightgbm_s"] = seconds_of(
                lambda: ranker.fit(rows, targets, group=sizes)
            )
            scores = ranker.to_local().predict(test_X.reshape(-1, D))
    scores = scores.reshape(test_y.shape)
    chosen = scores == scores.max(axis=1, keepdims=True)
    chosen = chosen / chosen.sum(axis=1, keepdims=True)
    figures["lightgbm"] = float(expected_reward(test_y, chosen))
    figures["base"] = float(base_reward(test_y))
    return figures


def parse_arguments(argv=None):
    parser = make_parser(__doc__, "scale", "out", "json", only=SECTIONS)
    parser.add_argument("--gigabytes", type=float, default=50, help="size of X on disk")
    parser.add_argument("--memory", default="2GiB", help="memory of a worker, for disk")
    parser.set_defaults(scale=Fraction(1))
    args = parser.parse_args(argv)
    check_scale(parser, args)
    return args


def print_figures(name, figures):
    print(f"\n{name}")
    for key, value in figures.items():
        print(
            f"  {key:24} {value:.4g}"
            if isinstance(value, float)
            else f"  {key:24} {value}"
        )


def main(argv=None):
    args = parse_arguments(argv)
    out = {"versions": versions(), "machine": machine()}
    print_pairs(out["versions"] | out["machine"])
    sections = args.only or SECTIONS
    n_prompts = max(1000, round(488_000 * args.scale))
    if "fit" in sections:
        out["fit"] = measure_fit(n_prompts)
        print_figures("fit", out["fit"])
    if "messages" in sections:
        out["messages"] = measure_messages()
        print_figures("messages", out["messages"])
        n_bytes = 1e12
        print("\nmodel of an evaluation of 1 TB: seconds of the product, of tasks, of")
        print("messages, and share of the product")
        sizes = out["messages"]["bytes_to_a_worker"], out["messages"]["bytes_of_a_sum"]
        for n_workers in (10, 100, 1000):
            parts = model_evaluation(n_workers, n_bytes, *sizes, rate=1e9)
            row = [*parts, parts[0] / sum(parts)]
            print(f"  {n_workers:5} workers", *(f"{value:8.3g}" for value in row))
            out["messages"][f"model_{n_workers}"] = row
    if "disk" in sections:
        out["disk"] = measure_disk(args.gigabytes, args.memory, args.out)
        print_figures("disk", out["disk"])
    if "peer" in sections:
        out["peer"] = measure_peer(max(1000, round(60_000 * args.scale)))
        print_figures("peer", out["peer"])
    write_json(args.json, out)


if __name__ == "__main__":
    main()
