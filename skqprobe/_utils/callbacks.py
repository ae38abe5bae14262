"""Reports of a fit to scikit-learn's callbacks, from scikit-learn 1.9 on."""

from typing import Any


def begin_fit(estimator, X, y, max_subtasks, **metadata):
    """Begin the root task of a fit.

    Parameters
    ----------
    estimator : estimator
        Estimator being fitted.
    X, y : array-like
        Training data as the user passed them.
    max_subtasks : int
        Maximum number of tasks directly inside the fit.
    **metadata : dict
        Metadata of `fit`. None is left out.

    Returns
    -------
    task : Task
    """
    metadata = {name: value for name, value in metadata.items() if value is not None}
    arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
    if not hasattr(estimator, "_init_callback_context"):
        return Task(None, arguments)
    context = estimator._init_callback_context(max_subtasks=max_subtasks)
    return Task(context, arguments)


class Task:
    """A task of a fit. Without callbacks, its methods do nothing.

    Parameters
    ----------
    context : CallbackContext or None
        Context of the task.
    arguments : dict
        Arguments of all hooks.
    """

    def __init__(self, context, arguments):
        self._context, self._arguments = context, arguments
        if context is not None:
            context.call_on_fit_task_begin(**arguments)

    @property
    def has_callbacks(self):
        """Whether the estimator has any callbacks."""
        return hasattr(self._arguments["estimator"], "_skl_callbacks")

    def subtask(self, name, max_subtasks=0):
        """Begin a task inside this one."""
        context = None
        if self._context is not None and self.has_callbacks:
            context = self._context.subcontext(
                task_name=name, max_subtasks=max_subtasks
            )
        return Task(context, self._arguments)

    def end(self, state=None):
        """End the task.

        Parameters
        ----------
        state : dict or callable, default=None
            Fitted attributes that an estimator would have if the fit stopped here, or
            a function that returns them.

        Returns
        -------
        stop : bool
            Whether a callback asks to stop the fit.
        """
        if self._context is None:
            return False
        return self._context.call_on_fit_task_end(
            **self._arguments, reconstruction_attributes=state
        )


class Iterations:
    """Iterations of a solver, as subtasks of a task.

    The task must allow one subtask more than there are iterations: a solver reports
    that an iteration has ended, and the next begins before it is known to run.

    Parameters
    ----------
    task : Task
        Task to which the iterations belong.
    state : callable
        Function that maps the solver's parameters and the number of iterations to
        fitted attributes.
    verbose : str, default=None
        Beginning of the lines that print the objective; None prints nothing.
    """

    def __init__(self, task, state, verbose=None):
        self._task, self._state, self._verbose = task, state, verbose
        self._n_iter = 0
        self._iteration: Any = task.subtask("iteration")

    @property
    def callback(self):
        """Function for a solver's `on_iteration`; None if nothing follows the fit."""
        is_followed = self._verbose is not None or self._task.has_callbacks
        return self._end_iteration if is_followed else None

    def _end_iteration(self, theta, value):
        self._n_iter += 1
        if self._verbose is not None:
            print(f"{self._verbose} {value:.6g}")
        n_iter = self._n_iter
        stop = self._iteration.end(lambda: self._state(theta, n_iter))
        self._iteration = self._task.subtask("iteration")
        return stop

    def end(self, attributes):
        """End the task, with the fitted attributes."""
        self._iteration.end()  # it did not run
        self._task.end(attributes)
