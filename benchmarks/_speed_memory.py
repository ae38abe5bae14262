"""Sections `memory` and `memmap` of `speed.py`: peaks of the resident memory."""

import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _synthetic import PAPER, fill_data, make_data, times
from _timing import (
    RESET_PEAK,
    Row,
    can_measure_memory,
    fit_counting,
    fit_quietly,
    in_new_process,
    peak_growth,
    resident_bytes,
    take_turns,
)

from skqprobe import QProbePolicy
from skqprobe._arrays.blocks import BlockReader, row_blocks

MEMMAP = (3932, 200, 4096)


def measure_memory(plan, shape=PAPER):
    """Make the rows of the section `memory`."""
    if not can_measure_memory():
        print(f"left out: memory, which needs {RESET_PEAK}")
        return []
    make_data.cache_clear()  # the new process makes its own
    table = []
    for layout in ("sets", "rows sorted by group"):
        growth, size = in_new_process(fit_growth, plan.fewer_prompts(shape), layout)
        what = f"peak growth of fit, {layout}"
        table.append(Row(what, growth / 1e6, "MB", "X itself", size / 1e6, 0.15))
    return table


def warm_up():
    """Fit and predict once, so that BLAS has its buffers before memory is read."""
    data = make_data((20, 50, 512), 0)
    fit_quietly(QProbePolicy("policy_gradient", max_iter=2), *data).predict(data[0])
    make_data.cache_clear()


def fit_growth(shape, layout):
    """Return the peak growth of a fit and the size of X, in bytes."""
    warm_up()
    data = X, y = make_data(shape, 0)
    if layout != "sets":
        groups = np.repeat(np.arange(shape[0]), shape[1])
        data = X.reshape(-1, shape[2]), y.reshape(-1), groups
    # The number of iterations fills the memory of the solver.
    policy = QProbePolicy("policy_gradient", max_iter=12)
    return peak_growth(partial(fit_quietly, policy, *data)), X.nbytes


def measure_memmap(plan, shape=MEMMAP):
    """Make the rows of the section `memmap`, in a new process."""
    if not can_measure_memory():
        print(f"left out: memmap, which needs {RESET_PEAK}")
        return []
    n_prompts, k, d = plan.fewer_prompts(shape)
    with tempfile.TemporaryDirectory() as folder:
        limit = shutil.disk_usage(folder).free // 2 // (2 * k * d)
        if n_prompts > limit:
            print(f"memmap: {limit} prompts, not {n_prompts}: half of the free disk")
            n_prompts = limit
        path = Path(folder) / "X.npy"
        return in_new_process(memmap_rows, path, (n_prompts, k, d), plan)


def memmap_rows(path, shape, plan):
    """Write the file and make its rows."""
    X = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    y = fill_data(X, 0)
    X.flush()  # so that the system does not write while the file is read
    del X  # so that its pages no longer belong to this process
    warm_up()
    policy, table = QProbePolicy("policy_gradient", max_iter=5), []
    fit = partial(fit_counting, policy)
    for name, call in {"fit": lambda X: fit(X, y), "predict": policy.predict}.items():
        X = np.load(path, mmap_mode="r")  # again, so that none of its pages is resident
        before = resident_bytes("RssFile")
        growth = peak_growth(partial(call, X)) / 1e6
        pages = (resident_bytes("RssFile") - before) / 1e6
        peer, note = (
            f"X itself, {times(shape)}",
            f"{pages:.0f} MB are pages of the file",
        )
        row = f"peak growth of {name}", growth, "MB", peer, X.nbytes / 1e6, 0.25, note
        table.append(Row(*row))
    return table + per_byte_rows(X, y, policy, plan)


def per_byte_rows(X, y, policy, plan):
    """Compare the time per byte with that of float32 in memory."""
    part = max(10, len(X) // 8)
    X32, y32 = X[:part].astype(np.float32), y[:part]
    calls = {
        "fit": partial(fit_counting, policy, X, y),
        "fit 32": partial(fit_counting, policy, X32, y32),
        "predict": partial(policy.predict, X),
        "predict 32": partial(policy.predict, X32),
        "convert": partial(read_all, X.reshape(-1, X.shape[2])),
    }
    seconds, note, results = take_turns(calls, plan)
    for name in ("fit", "fit 32"):
        seconds[name] = float(np.median(results[name]))
    table = []
    for name, what in {"fit": "one evaluation", "predict": "predict"}.items():
        ns = 1e9 * seconds[name] / X.nbytes
        ns32 = 1e9 * seconds[f"{name} 32"] / X32.nbytes
        row = f"{what}, per byte", ns, "ns", "float32 in memory", ns32, 2.5, note
        table.append(Row(*row))
    ns = 1e9 * seconds["convert"] / X.nbytes
    row = "conversion alone, per byte", ns, "ns", "predict, float32", ns32
    return [*table, Row(*row)]


def read_all(rows):
    """Read all rows block by block, converted to float32."""
    read = BlockReader(rows)
    for block in row_blocks(rows):
        read(block)
