"""Linear probes in files that anything reads: JSON and safetensors."""

import json

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import skqprobe
from skqprobe._arrays.device import to_host
from skqprobe._candidates.choice import check_temperature
from skqprobe._estimators._base import BaseQProbe
from skqprobe._estimators.regressor import QProbeRegressor
from skqprobe.preprocessing import PerCandidate

FORMAT_VERSION = 1
"""To be raised by a change that a reader of the old format would get wrong."""


def to_json(probe, *, metadata=None):
    """Write a linear probe as JSON, to be served without this package.

    Numbers are written so that they are read back to the last bit.
    :doc:`/guide/persistence` has a reader of a few lines, and says what each key holds.

    Parameters
    ----------
    probe : QProbePolicy, QProbePolicyCV, QProbeRegressor or Pipeline
        A fitted linear probe; or a fitted pipeline of any number of StandardScaler, as
        they are or in `PerCandidate`, and a linear probe: scaling is then made part of
        the coefficients and the intercept, in float64.
    metadata : dict, default=None
        What else is to be known, such as the model of the embeddings; of what JSON has.

    Returns
    -------
    text : str

    Raises
    ------
    NotFittedError
        If the probe is not fitted.
    TypeError
        If it is no probe, or pipeline of one.
    ValueError
        If it is not linear, or a number or the metadata cannot be written as JSON.

    See Also
    --------
    to_safetensors : The same, in binary.

    Examples
    --------
    >>> import json
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.io import to_json
    >>> X = [[[0.0], [1.0]], [[2.0], [1.0]]]  # 2 prompts, 2 candidates, 1 feature
    >>> policy = QProbePolicy("squared_error", alpha=0).fit(X, [[0, 1], [2, 1]])
    >>> text = to_json(policy, metadata={"embedding": "number of words"})
    >>> json.loads(text)["coef"] == policy.coef_.tolist()
    True
    """
    description, coef, intercept = _describe(probe, metadata)
    values = {"intercept": intercept, "coef": coef.tolist()}
    return json.dumps({**description, **values}, allow_nan=False)


def to_safetensors(probe, *, metadata=None):
    """Write a linear probe as safetensors, to be served without this package.

    The tensors are "coef", of shape (n_features,), and "intercept", of shape () and
    float64. The metadata have one key, "probe", with all else that `to_json` writes, in
    JSON.

    Parameters
    ----------
    probe : QProbePolicy, QProbePolicyCV, QProbeRegressor or Pipeline
        What `to_json` takes.
    metadata : dict, default=None
        What else is to be known, such as the model of the embeddings; of what JSON has.

    Returns
    -------
    content : bytes
        The content of a file.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    NotFittedError, TypeError, ValueError
        As by `to_json`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.io import to_safetensors
    >>> X = [[[0.0], [1.0]], [[2.0], [1.0]]]  # 2 prompts, 2 candidates, 1 feature
    >>> policy = QProbePolicy("squared_error").fit(X, [[0, 1], [2, 1]])
    >>> content = to_safetensors(policy)  # doctest: +SKIP
    >>> Path("probe.safetensors").write_bytes(content)  # doctest: +SKIP
    """
    description, coef, intercept = _describe(probe, metadata)
    try:
        from safetensors.numpy import save
    except ImportError:
        raise ImportError(
            'to_safetensors needs safetensors: pip install "skqprobe[io]"; or use '
            "to_json."
        ) from None
    tensors = {"coef": np.ascontiguousarray(coef), "intercept": np.array(intercept)}
    return save(tensors, metadata={"probe": json.dumps(description, allow_nan=False)})


def _describe(model, metadata):
    """Collect everything about a probe but its numbers, and these."""
    probe, scalers = _split(model)
    coef, intercept = _fold(scalers, probe)
    check_temperature(probe.temperature)
    if not np.isfinite([*coef, intercept, probe.temperature]).all():
        raise ValueError(
            "The coefficients, intercept and temperature of a probe must be finite, or "
            f"JSON has no numbers for them; the temperature is {probe.temperature!r}."
        )
    is_probability = isinstance(probe, QProbeRegressor) and probe.loss == "log_loss"
    names = getattr(model, "feature_names_in_", None)
    description = {
        "format": "skqprobe linear probe",
        "format_version": FORMAT_VERSION,
        "skqprobe_version": skqprobe.__version__,
        "estimator": type(probe).__name__,
        "loss": str(probe.loss),
        "inverse_link": "sigmoid" if is_probability else "identity",
        "temperature": float(probe.temperature),
        "n_features": len(coef),
        "feature_names": None if names is None else list(names),
        "dtype": coef.dtype.name,
        "metadata": _check_metadata(metadata),
    }
    return description, coef, float(intercept)


def _split(model):
    """Take a model apart: its linear probe and the scalers before it, all fitted."""
    steps = [s for _, s in model.steps] if isinstance(model, Pipeline) else [model]
    before = [step for step in steps[:-1] if step not in (None, "passthrough")]
    probe = steps[-1]
    scalers = [
        step.transformer if isinstance(step, PerCandidate) else step for step in before
    ]
    unknown = [s for s in scalers if not isinstance(s, StandardScaler)]
    if unknown or not isinstance(probe, BaseQProbe):
        raise TypeError(
            "probe must be a QProbePolicy, QProbePolicyCV or QProbeRegressor, or a "
            "Pipeline of StandardScaler, or PerCandidate(StandardScaler()), and one "
            f"of these; got {[probe, *unknown][-1]!r}. Of a search give its "
            "best_estimator_; of another pipeline its last step, and see to it that "
            "the other steps are done where the probe is served."
        )
    for step in [*before, probe]:
        check_is_fitted(step)
    if hasattr(probe, "coefs_"):
        raise ValueError(
            f"probe has hidden layers, {probe.hidden_layer_sizes}, and only linear "
            "probes are exported. Save it with skops, joblib or pickle."
        )
    return probe, [getattr(step, "transformer_", step) for step in before]


def _fold(scalers, probe):
    """Compute coefficients and intercept for features that are not scaled."""
    coef, intercept = np.asarray(to_host(probe.coef_)), probe.intercept_
    for scaler in reversed(scalers):
        coef = coef.astype(np.float64)
        if scaler.with_std:
            coef = coef / scaler.scale_
        if scaler.with_mean:
            intercept = intercept - coef @ scaler.mean_
    return coef, intercept


def _check_metadata(metadata):
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a dict; got {metadata!r}.")
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "metadata must be made of what JSON has: dict, list, str, finite numbers, "
            f"True, False and None. The cause: {error}"
        ) from error
    return metadata
