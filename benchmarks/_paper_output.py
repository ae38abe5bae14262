"""Tables and pictures of `paper.py`."""

from itertools import pairwise

import numpy as np
from _output import format_interval, make_axes, print_data, save_figure

OURS, THEIRS = "skqprobe", "paper"
SIBLINGS, THEIRS_SCALED = "+ siblings", "paper, scaled"
COLUMNS = (OURS, SIBLINGS, THEIRS, THEIRS_SCALED)
LOSSES = {"squared_error": "L_Q", "log_loss": "L_CE", "policy_gradient": "L_PG"}
AXES = {
    "k": "number of candidates k",
    "prompts": "training prompts",
    "temperature": "temperature (standard deviations of a prompt's values)",
    "layers": "layers of the probe",
}


def find(entries, method, loss, figure):
    """Return the entry of a method, loss and figure."""
    key = (method, loss, figure)
    return next(e for e in entries if (e["method"], e["loss"], e["figure"]) == key)


# %% Tables


def print_all(result):
    """Print the tables of a data set."""
    print_data(result, f"{result['n_seeds']} seeds", f"{result['seconds']:.0f} s")
    for number, k in enumerate(find(result["lines"], "base", "", "table")["at"]):
        print_table(result, number, k)
    for figure in ("prompts", "layers"):
        print_figure(result, figure)


def print_table(result, number, k):
    """Print the rewards at one of the k of the table."""
    names = "".join(f"{name:22}" for name in COLUMNS)
    print(f"\n{f'k = {k}':8}{names}{f'{OURS} - {THEIRS}':25}seeds ahead")
    for loss, short in LOSSES.items():
        entries = [find(result["lines"], name, loss, "table") for name in COLUMNS]
        gain = find(result["differences"], OURS, loss, "table")
        ahead = sum(value > 0 for value in gain["by_seed"][number])
        columns = "".join(f"{format_point(entry, number):22}" for entry in entries)
        print(
            f"{short:8}{columns}{format_point(gain, number, '+'):25}"
            f"{ahead}/{result['n_seeds']}"
        )
    for name in ("base", "oracle"):
        entry = find(result["lines"], name, "", "table")
        print(f"{name:8}{format_point(entry, number)}")


def format_point(entry, number, sign=""):
    point = {name: entry[name][number] for name in ("value", "low", "high")}
    return format_interval(point, sign)


def print_figure(result, figure):
    """Print the lines of a figure, with the sign of each difference."""
    at = find(result["lines"], OURS, next(iter(LOSSES)), figure)["at"]
    print(f"\n{AXES[figure]:22}" + "".join(f"{x:8}" for x in at))
    for loss, short in LOSSES.items():
        for name in (OURS, THEIRS):
            values = find(result["lines"], name, loss, figure)["value"]
            row = "".join(f"{value:8.3f}" for value in values)
            print(f"{f'{short}, {name}':22}{row}")
        gain = find(result["differences"], OURS, loss, figure)
        ends = zip(gain["low"], gain["high"], strict=True)
        row = "".join(f"{'+' * (a > 0) + '-' * (b < 0):>8}" for a, b in ends)
        print(f"{'':22}{row}".rstrip())
    print(
        f"(+ the reward of {OURS} is higher, - lower, and the interval of the "
        "difference does not contain 0)"
    )


# %% Pictures


def draw(result, folder):
    """Draw the four figures of a data set into one picture."""
    figure, axes = make_axes(2, 2, (11, 8))
    for name, ax in zip(AXES, axes.flat, strict=True):
        draw_figure(result, name, ax)
    figure.suptitle(
        "{name}: reward on held-out prompts, mean of {n_seeds} seeds\n(filled: above "
        "the other of the same loss, by the 95% interval of their difference over "
        "prompts)".format(**result)
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return save_figure(figure, folder, result["name"])


def draw_figure(result, figure, ax):
    """Draw the lines of one figure, its ticks and labels."""
    for number, loss in enumerate(LOSSES):
        draw_loss(result, figure, loss, f"C{number}", ax)
    base, oracle = (
        find(result["lines"], name, "", "table") for name in ("base", "oracle")
    )
    ax.axhline(base["value"][0], color="0.4", linestyle=":", label="base model")
    if figure == "k":
        best = zip(oracle["value"], oracle["at"], strict=True)
        text = ", ".join(f"{value:.2f} at k = {k}" for value, k in best)
        ax.set_title(f"oracle, not drawn: {text}", fontsize="medium")
    at = find(result["lines"], OURS, loss, figure)["at"]
    if figure == "temperature":
        ax.set_xscale("log")
    elif figure == "layers":
        ax.set_xticks(at)
    else:
        ax.set_xscale("log", base=2)
        ticks = [*(x for x, after in pairwise(at) if after > 1.4 * x), at[-1]]
        ax.set_xticks(ticks, [str(x) for x in ticks])
        ax.minorticks_off()
    ax.set_xlabel(AXES[figure])
    among = {"k": "k", "temperature": result["n_candidates"]}
    ax.set_ylabel(f"reward of the choice among {among.get(figure, base['at'][-1])}")


def draw_loss(result, figure, loss, color, ax):
    """Draw both methods, filled where the interval of the difference excludes 0."""
    gain = find(result["differences"], OURS, loss, figure)
    above = {OURS: np.array(gain["low"]) > 0, THEIRS: np.array(gain["high"]) < 0}
    for name, style in ((OURS, "o-"), (THEIRS, "o--")):
        line = find(result["lines"], name, loss, figure)
        x, y = np.array(line["at"]), np.array(line["value"])
        label = f"{LOSSES[loss]}, {name}"
        ax.plot(x, y, style, ms=5, mfc="white", color=color, label=label)
        ax.plot(x[above[name]], y[above[name]], "o", ms=5, color=color)
