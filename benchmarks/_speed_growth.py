"""Section `growth` of `speed.py`: time and memory against the size of the data."""

import tracemalloc
from functools import partial

import numpy as np
from _output import make_axes, save_figure
from _synthetic import make_data
from _timing import Plan, Row, fit_quietly, take_turns

from skqprobe import QProbePolicy
from skqprobe.preprocessing import SiblingFeatures

BASE = (200, 40, 512)
AXES = ("prompts", "k", "features")
UNITS = {"s": "time", "MB": "memory"}


def measure_growth(plan, base=BASE):
    """Make the rows of the section, each with the points of a line."""
    base = [max(4, round(size * plan.scale ** (1 / 3))) for size in base]
    table = []
    for axis, name in enumerate(AXES):
        at, figures = [], {}
        for factor in 10.0 ** np.arange(-1, 1.1, 0.5):
            shape = list(base)
            shape[axis] = max(2, round(shape[axis] * factor))
            at.append(shape[axis])
            for what, value in time_and_memory(tuple(shape), plan).items():
                figures.setdefault(what, []).append(value)
        for (what, unit), values in figures.items():
            points = {"axis": name, "of": what, "unit": unit, "at": at, "value": values}
            note = f"{values[0]:.2g} to {values[-1]:.2g} {unit} at {at[0]} to {at[-1]}"
            what = f"{what}, exponent of {UNITS[unit]} in {name}"
            slope = exponent(at[-3:], values[-3:])
            table.append(Row(what, slope, "", note=note, points=points))
    return table


def time_and_memory(shape, plan):
    """Measure seconds and MB of allocated memory, by (call, unit)."""
    X, y = make_data(shape, 0)
    policy = QProbePolicy("policy_gradient", max_iter=20)
    calls = {
        "fit": partial(fit_quietly, policy, X, y),
        "predict": partial(policy.predict, X),
        "SiblingFeatures": partial(SiblingFeatures().fit_transform, X),
    }
    few = Plan(repeats=min(plan.repeats, 3), budget=plan.budget / 10)
    seconds, _, _ = take_turns(calls, few)
    figures = {(name, "s"): value for name, value in seconds.items()}
    for name, call in calls.items():
        tracemalloc.start()
        call()
        figures[name, "MB"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return figures


def exponent(at, values):
    """Compute the slope of log(values) on log(at), by least squares."""
    return float(np.polyfit(np.log(at), np.log(values), 1)[0])


def draw(rows, folder):
    """Draw time and memory against prompts, k and features; return the path."""
    figure, axes = make_axes(2, 3, (12, 7))
    for row in rows:
        points = row.points
        ax = axes[list(UNITS).index(points["unit"]), AXES.index(points["axis"])]
        label = f"{points['of']}, exponent {row.value:.2f}"
        ax.loglog(points["at"], points["value"], "o-", label=label)
        ax.set_xlabel(points["axis"])
        ax.set_ylabel(f"{UNITS[points['unit']]} ({points['unit']})")
        ax.legend(fontsize="small")
    figure.suptitle("Time and allocated memory, with exponents of the upper decade")
    return save_figure(figure, folder, "growth")
