"""Sections `choose` and `import` of `speed.py`: time of predictions and of imports."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
from _synthetic import make_data, times
from _timing import Row, compare, fit_quietly
from sklearn.linear_model import LinearRegression

from skqprobe import QProbePolicy

SHAPES = ((1, 48, 4096), (2000, 48, 384))


def measure_choose(plan, shapes=SHAPES):
    """Make the rows of the section `choose`."""
    table = []
    for shape in shapes:
        X, _ = make_data(shape, 1)
        rows, w = X.reshape(-1, shape[2]), np.ones(shape[2], np.float32)
        policy = QProbePolicy("policy_gradient", temperature=1.0, max_iter=5)
        fit_quietly(policy, *make_data((20, 8, shape[2]), 0))
        peer = "X @ w", partial(np.matmul, rows, w), 2.0
        if len(X) == 1:
            linear = LinearRegression().fit(rows, rows[:, 0])
            peer = "LinearRegression.predict", partial(linear.predict, rows), 3.0
        what, predict = f"predict, {times(shape)}", partial(policy.predict, X)
        table.append(compare(what, predict, *peer, plan))
        for name in ("predict_proba", "sample"):
            what, call = f"{name}, {times(shape)}", partial(getattr(policy, name), X)
            table.append(compare(what, call, "predict", predict, 2.0, plan))
    return table


def measure_import(plan):
    """Make the row of the section `import`."""
    code = "from time import perf_counter as t; s = t(); import {}; print(t() - s)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    names, seconds = ("skqprobe", "sklearn.linear_model"), {}
    for _ in range(1 + plan.repeats):
        for name in names:
            command = [sys.executable, "-c", code.format(name)]
            out = subprocess.check_output(command, env=environment)
            seconds.setdefault(name, []).append(float(out))
    ours, theirs = (float(np.median(seconds[name][1:])) for name in names)
    what, peer = (f"import {name}" for name in names)
    return [Row(what, ours, "s", peer, theirs, 1.15, f"rounds: {plan.repeats}")]
