"""scikit-learn's callbacks in a fit."""

from typing import Any


class FitMonitor:
    """Tell scikit-learn's callbacks of each iteration of a fit.

    Parameters
    ----------
    estimator : estimator
        The estimator being fitted.
    X, y : array-like
        The training data as the user gave them.
    metadata : dict
        The metadata of `fit`; those that are None are left out.
    max_iter : int
        The most iterations there can be.
    state : callable
        Maps the solver's parameters to the fitted attributes that an estimator
        stopped at this iteration would have.
    """

    def __init__(self, estimator, X, y, metadata, max_iter, state):
        self.active = hasattr(estimator, "_skl_callbacks")
        if not hasattr(estimator, "_init_callback_context"):
            return
        metadata = {key: value for key, value in metadata.items() if value is not None}
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._state = state
        # One task more than there are iterations: the solver only says that one has
        # ended, so the next has begun before it is known whether it will run.
        self._fit = estimator._init_callback_context(max_subtasks=max_iter + 1)
        self._fit.call_on_fit_task_begin(**self._told)
        self._iteration: Any = None

    def begin(self, theta):
        """Begin the first iteration, at the solver's starting point."""
        if self.active:
            self._iteration = self._fit.subcontext(task_name="iteration")
            self._iteration.call_on_fit_task_begin(
                **self._told, reconstruction_attributes=self._state(theta)
            )

    def step(self, theta):
        """End an iteration and begin the next; True where a callback asks to stop."""
        if not self.active:
            return False
        stop = self._iteration.call_on_fit_task_end(
            **self._told, reconstruction_attributes=self._state(theta)
        )
        self.begin(theta)
        return stop

    def end(self, theta):
        """End the fit."""
        if not hasattr(self, "_fit"):
            return
        if self._iteration is not None:
            self._iteration.call_on_fit_task_end(estimator=self._told["estimator"])
        self._fit.call_on_fit_task_end(
            **self._told, reconstruction_attributes=self._state(theta)
        )
