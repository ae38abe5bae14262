"""Sets of points of several objectives: the non-dominated ones, and their volume."""

import numpy as np
from sklearn.utils import check_array

from skqprobe._arrays.device import to_host
from skqprobe._arrays.magnitude import check_magnitude

MOST_OBJECTIVES = 3
"""Number of objectives up to which a hypervolume is cheap to compute exactly."""


def pareto_front(points):
    """Find the points that no other point dominates.

    A point dominates another one if it is at least as large in every objective and
    larger in one. Larger is better: change the sign of a cost.

    Parameters
    ----------
    points : array-like of shape (n_points, n_objectives)
        Points, such as the rewards of policies with different weights.

    Returns
    -------
    is_front : ndarray of bool, of shape (n_points,)
        Whether each point is on the front. Equal points do not dominate each other, so
        that all copies of a point on the front are kept.

    See Also
    --------
    hypervolume : Size of the set that the points dominate.

    Examples
    --------
    >>> from skqprobe.metrics import pareto_front
    >>> pareto_front([[1, 3], [2, 2], [1, 2], [2, 2]])
    array([ True,  True, False,  True])
    """
    points = _check_points(points, "points")
    distinct, copies = np.unique(points, axis=0, return_inverse=True)
    is_front = np.zeros(len(distinct), dtype=bool)
    left = np.arange(len(distinct))
    while left.size:  # the last one in lexicographic order is not dominated
        is_front[left[-1]] = True
        left = left[(distinct[left] > distinct[left[-1]]).any(axis=1)]
    return is_front[copies.reshape(-1)]


def hypervolume(points, reference):
    """Compute the volume that points dominate, above a reference point, exactly.

    It is the volume of all positions that are larger than the reference and smaller
    than one of the points. It ranks sets of points in several objectives by one number,
    whose unit is the product of the units of the objectives [1]_.

    Parameters
    ----------
    points : array-like of shape (n_points, n_objectives)
        Points with up to 3 objectives. Larger is better. Points that do not exceed the
        reference in every objective add nothing.
    reference : array-like of shape (n_objectives,)
        Worst value of each objective that counts. The result depends on it: compare
        only results with the same reference.

    Returns
    -------
    volume : float

    See Also
    --------
    pareto_front : Points that no other point dominates.

    References
    ----------
    .. [1] Zitzler and Thiele, "Multiobjective Optimization Using Evolutionary
       Algorithms: A Comparative Case Study", PPSN 1998.

    Examples
    --------
    >>> from skqprobe.metrics import hypervolume
    >>> hypervolume([[1, 3], [2, 2], [1, 2]], reference=[0, 0])
    5.0
    """
    points = _check_points(points, "points")
    reference = _check_points(np.atleast_2d(reference), "reference")
    n_objectives = points.shape[1]
    if reference.shape != (1, n_objectives) or n_objectives > MOST_OBJECTIVES:
        raise ValueError(
            f"points must have up to {MOST_OBJECTIVES} objectives, and reference one "
            f"number for each; got shapes {points.shape} and {reference.shape[1:]}."
        )
    above = points - reference
    above = above[(above > 0).all(axis=1)]
    return _volume(above[pareto_front(above)]) if len(above) else 0.0


def _volume(points):
    """Compute the volume between 0 and positive points, in slices of the last axis."""
    if points.shape[1] == 1:
        return float(points.max())
    points = points[np.argsort(-points[:, -1])]
    heights = -np.diff(points[:, -1], append=0)
    if points.shape[1] == 2:
        return float(heights @ np.maximum.accumulate(points[:, 0]))
    slices = enumerate(heights, start=1)
    return float(sum(h * _volume(points[:n, :-1]) for n, h in slices if h))


def _check_points(points, name):
    """Validate points, of shape (n_points, n_objectives)."""
    points = check_array(to_host(points, name), dtype=np.float64, input_name=name)
    # Products of three numbers of this magnitude fit in float64.
    check_magnitude(points, name, high=1e100)
    return points
