"""Functions of scikit-learn that are private, or only in recent versions."""

from numbers import Real

from sklearn.base import _fit_context
from sklearn.utils import _param_validation
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._indexing import _get_column_indices
from sklearn.utils._param_validation import (
    HasMethods,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import _check_feature_names_in as feature_names_in
from sklearn.utils.validation import _check_n_features as check_n_features
from sklearn.utils.validation import _get_feature_names as column_names

try:  # scikit-learn 1.9 and later
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # pragma: no cover  (run with the oldest supported scikit-learn)

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Base class that replaces scikit-learn's before version 1.9."""

    def with_callbacks(method):
        """Return the method unchanged: before version 1.9, there are no callbacks."""
        return method


try:  # scikit-learn 1.9 and later
    from sklearn.utils._array_api import (
        _max_precision_float_dtype as max_precision_float_dtype,
    )
    from sklearn.utils._array_api import (
        check_same_namespace,
        get_namespace_and_device,
        move_to,
    )

    ARRAY_API_SUPPORT = True
except ImportError:  # pragma: no cover  (run with the oldest supported scikit-learn)
    ARRAY_API_SUPPORT = False
    get_namespace_and_device = max_precision_float_dtype = move_to = None

    def check_same_namespace(X, estimator, *, attribute, method):
        """Accept any X: before version 1.9, all input is converted to numpy."""


class Interval(_param_validation.Interval):
    """Interval that contains no numbers which numpy cannot represent.

    The class of scikit-learn raises a TypeError for such numbers, as of `fractions`.
    """

    def is_satisfied_by(self, val):
        """Return whether `val` is a number in the interval."""
        try:
            return super().is_satisfied_by(val)
        except TypeError:
            return False


class FloatInterval(Interval):
    """Interval of numbers of any type, such as fractions, that are used as floats."""

    def is_satisfied_by(self, val):
        """Return whether `val`, as a float, is in the interval."""
        try:
            return super().is_satisfied_by(float(val) if isinstance(val, Real) else val)
        except OverflowError:
            return False


def wrap_output(values, X, transformer):
    """Put the output of a transformer in the container that `set_output` selects."""
    return _wrap_data_with_container("transform", values, X, transformer)


def column_indices(X, columns):
    """Find the indices of columns that are selected as in ColumnTransformer."""
    return _get_column_indices(X, columns(X) if callable(columns) else columns)
