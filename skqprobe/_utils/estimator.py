"""BaseEstimator: that of scikit-learn, with the version of skqprobe in saved states."""

import inspect

from sklearn import base

from skqprobe._utils.sklearn_compat import parse_version
from skqprobe._utils.warn import warn_user


class BaseEstimator(base.BaseEstimator):
    """Base class of all objects that can be saved and loaded.

    A saved state holds the attributes and the version of skqprobe. To load the state of
    a newer version raises a warning. Parameters that an older version did not have get
    their defaults. The HTML representation links to the page of the class in the
    documentation.
    """

    _doc_link_module = "skqprobe"
    _doc_link_template = (
        "https://skqprobe.readthedocs.io/en/stable/api/{estimator_module}."
        "{estimator_name}.html"
    )

    def get_params(self, deep=True):
        """Get the parameters of this estimator.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of estimators that are parameters.

        Returns
        -------
        params : dict
            Values of the parameters by name.
        """
        try:
            return super().get_params(deep=deep)
        except AttributeError as error:
            if error.obj is not self:
                raise
            raise AttributeError(
                f"{type(self).__name__} has no attribute {error.name!r}. __init__ must "
                "store each argument under its name: "
                f"self.{error.name} = {error.name}."
            ) from None

    def _snapshot(self):
        """Return an estimator of the present attributes.

        A fit in another thread replaces all attributes of the original at once. A
        method that reads several of them reads those of one fit in a snapshot.
        """
        snapshot = object.__new__(type(self))
        snapshot.__dict__ = self.__dict__.copy()
        return snapshot

    def __getstate__(self):
        return {**super().__getstate__(), "_skqprobe_version": _this_version()}

    def __setstate__(self, state):
        attributes = dict(state)
        saved_by = attributes.pop("_skqprobe_version", None)
        this = _this_version()
        if saved_by is not None and parse_version(saved_by) > parse_version(this):
            warn_user(
                f"This {type(self).__name__} was saved by skqprobe {saved_by}, and is "
                f"loaded by skqprobe {this}, which is older and may misread it. "
                f"Install skqprobe {saved_by} or later, or fit again."
            )
        # An older version had fewer parameters.
        parameters = inspect.signature(type(self)).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__(defaults | attributes)


def _this_version():
    import skqprobe  # which imports this module first

    return skqprobe.__version__
