"""Measurements of time and memory."""

import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

from skqprobe._objectives import grid

PAUSE = 0.2
"""Seconds between calls that take turns. The threads of BLAS wait actively for about a
tenth of a second after a call, and would slow the next one down."""

STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of Linux from which memory is read. Elsewhere memory is not measured."""


@dataclass(frozen=True)
class Plan:
    """Amount of work.

    Parameters
    ----------
    scale : float
        Share of the full size.
    repeats : int
        Number of rounds of a comparison, without the first.
    budget : float
        Time for one comparison, in seconds.
    """

    scale: float = 1.0
    repeats: int = 7
    budget: float = 60.0

    def fewer_prompts(self, shape):
        """Scale the prompts of (n_prompts, k, d), to 10 or more."""
        return max(10, round(shape[0] * self.scale)), *shape[1:]

    def smaller(self, shape, share=1.0):
        """Scale prompts and features alike, by the scale times a share."""
        root = (self.scale * share) ** 0.5
        n_prompts, k, d = shape
        return max(10, round(n_prompts * root)), k, max(4, round(d * root))


@dataclass(frozen=True)
class Row:
    """Row of a table of comparisons.

    Parameters
    ----------
    what : str
        Quantity that is measured.
    value, unit : float, str
        Measurement.
    peer, peer_value : str, float
        Peer and its measurement in the same unit, if there is one.
    target : float, default=None
        Largest ratio that is aimed at, or largest value if there is no peer.
    note : str
        Remark.
    points : dict, default=None
        Points of a line to draw.
    """

    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    target: float | None = None
    note: str = ""
    points: dict | None = None

    @property
    def ratio(self):
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self):
        if self.target is None:
            return None
        return bool((self.value if self.ratio is None else self.ratio) <= self.target)

    def as_dict(self):
        """Return a dict that is ready for JSON."""
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


def seconds_of(call):
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(calls, plan):
    """Time calls that take turns.

    Parameters
    ----------
    calls : dict of str to callable
        Calls to time, by name.
    plan : Plan
        Number of rounds, and time for all of them.

    Returns
    -------
    seconds : dict of str to float
        Medians over rounds.
    note : str
        Number of rounds.
    results : dict
        Results of the last calls.
    """
    rounds, spent, loops = [], 0.0, dict.fromkeys(calls, 1)
    while len(rounds) < 1 + plan.repeats:
        took, results = {}, {}
        for name, call in calls.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            for _ in range(loops[name]):
                results[name] = call()
            elapsed = time.perf_counter() - began
            spent += elapsed
            took[name] = elapsed / loops[name]
            if not rounds:  # a short call is repeated, for the resolution of the clock
                loops[name] = max(1, round(0.02 / took[name]))
        rounds.append(took)
        if spent > plan.budget:
            break
    counted = rounds[1:] or rounds
    seconds = {name: float(np.median([t[name] for t in counted])) for name in calls}
    return seconds, f"rounds: {len(counted)}", results


def compare(what, ours, peer, theirs, target, plan):
    """Time two calls in turn and return the row of the table."""
    seconds, note, _ = take_turns({"ours": ours, "peer": theirs}, plan)
    return Row(what, seconds["ours"], "s", peer, seconds["peer"], target, note)


def fit_quietly(estimator, *data):
    """Fit without warnings of too few iterations or an ill-conditioned X."""
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, LinAlgWarning):
            warnings.simplefilter("ignore", category)
        return estimator.fit(*data)


def fit_counting(estimator, *data):
    """Fit, and return the seconds of each evaluation of the objective."""
    evaluate, seconds = grid.evaluate_together, []

    def timed(objectives, thetas):
        start = time.perf_counter()
        values = evaluate(objectives, thetas)
        seconds.append(time.perf_counter() - start)
        return values

    with mock.patch.object(grid, "evaluate_together", timed):
        fit_quietly(estimator, *data)
    return seconds


def in_new_process(function, *arguments):
    """Call a function of a module in a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def can_measure_memory():
    """Return whether the peak of the memory can be read."""
    return RESET_PEAK.exists()


def resident_bytes(field):
    """Read VmRSS (resident now), VmHWM (its peak) or RssFile (pages of files)."""
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith(field + ":"))
    return 1024 * int(line.split()[1])


def peak_growth(call):
    """Call, and return the peak of the resident memory over that before, in bytes."""
    RESET_PEAK.write_text("5")  # to the resident memory of this moment
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before
