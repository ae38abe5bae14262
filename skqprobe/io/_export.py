"""Export of linear probes as JSON and safetensors."""

import json

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

import skqprobe
from skqprobe._arrays.device import to_host
from skqprobe._candidates.choice import check_objective_weights, check_temperature
from skqprobe._estimators._base import BaseQProbe
from skqprobe._estimators.regressor import QProbeRegressor
from skqprobe._utils.describe import describe
from skqprobe._utils.optional import import_optional
from skqprobe.embedders import EmbedderUnion
from skqprobe.preprocessing import PerCandidate

FORMAT_VERSION, FORMAT_VERSION_OF_OBJECTIVES = 1, 2
"""Versions of the format, of a probe for one reward and for several objectives.
Increase them if older readers would misread a new file."""


def to_json(probe, *, embedder=None, metadata=None):
    """Export a linear probe as JSON, to serve it without this package.

    Numbers are written without loss: a reader gets the same bits.
    :doc:`/guide/persistence` describes each key and has a reader of a few lines.

    Parameters
    ----------
    probe : QProbePolicy, QProbePolicyCV, QProbeRegressor or Pipeline
        Fitted linear probe, or fitted pipeline of an embedder (or none), any number of
        StandardScaler and a linear probe. The scalers may be wrapped in `PerCandidate`.
        The coefficients and the intercept include the scaling, in float64.
    embedder : BaseEmbedder or EmbedderUnion, default=None
        Embedder that makes the features. The export records its class and parameters,
        among them how it joins prompt and completion; of a union, those of its
        embedders, and the labels of the categories. None takes that of a pipeline.
    metadata : dict, default=None
        Further information, such as the training data, in types that JSON supports.

    Returns
    -------
    text : str
        JSON object.

    Raises
    ------
    NotFittedError
        If `probe` is not fitted.
    TypeError
        If `probe` is neither a probe nor a supported pipeline.
    ValueError
        If `probe` is not linear, or if JSON does not support one of its numbers or
        `metadata`.

    See Also
    --------
    to_safetensors : Export the same information in a binary format.

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
    description, coef, intercept = _describe(probe, embedder, metadata)
    values = {"intercept": intercept.tolist(), "coef": coef.tolist()}
    return json.dumps({**description, **values}, allow_nan=False)


def to_safetensors(probe, *, embedder=None, metadata=None):
    """Export a linear probe as safetensors, to serve it without this package.

    The tensors are "coef", of shape (n_features,), and "intercept", of shape () and
    dtype float64. With several objectives, both have a first axis for them. The
    metadata of the file have one key, "probe": a JSON object with
    the other values that `to_json` writes.

    Parameters
    ----------
    probe : QProbePolicy, QProbePolicyCV, QProbeRegressor or Pipeline
        Fitted linear probe, or fitted pipeline of an embedder (or none), any number of
        StandardScaler and a linear probe. The scalers may be wrapped in `PerCandidate`.
        The coefficients and the intercept include the scaling, in float64.
    embedder : BaseEmbedder or EmbedderUnion, default=None
        Embedder that makes the features. The export records its class and parameters,
        among them how it joins prompt and completion; of a union, those of its
        embedders, and the labels of the categories. None takes that of a pipeline.
    metadata : dict, default=None
        Further information, such as the training data, in types that JSON supports.

    Returns
    -------
    content : bytes
        Content of a safetensors file.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    NotFittedError
        If `probe` is not fitted.
    TypeError
        If `probe` is neither a probe nor a supported pipeline.
    ValueError
        If `probe` is not linear, or if JSON does not support one of its numbers or
        `metadata`.

    See Also
    --------
    to_json : Export the same information as text.

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
    description, coef, intercept = _describe(probe, embedder, metadata)
    safetensors = import_optional(
        "safetensors.numpy", needed_by="to_safetensors", extra="io"
    )
    tensors = {"coef": np.ascontiguousarray(coef), "intercept": intercept}
    return safetensors.save(
        tensors, metadata={"probe": json.dumps(description, allow_nan=False)}
    )


def _describe(model, embedder, metadata):
    """Return a description of a probe in JSON's types, its coef and its intercept."""
    probe, scalers, first = _split_pipeline(model)
    embedder = first if embedder is None else embedder
    coef, intercept = _absorb_scaling(scalers, probe)
    check_temperature(probe.temperature)
    numbers = coef.ravel(), intercept.ravel(), [probe.temperature]
    if not np.isfinite(np.concatenate(numbers)).all():
        raise ValueError(
            "JSON supports only finite numbers, but the coefficients, intercept or "
            "temperature of the probe are not finite; temperature is "
            f"{probe.temperature!r}."
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
        "n_features": coef.shape[-1],
        "feature_names": None if names is None else list(names),
        "dtype": coef.dtype.name,
        "embedder": None if embedder is None else _describe_embedder(embedder),
        "metadata": _check_metadata(metadata),
    }
    if coef.ndim == 2:
        names = getattr(probe, "objective_names_", None)
        weights = check_objective_weights(probe.objective_weights, len(coef))
        description["format_version"] = FORMAT_VERSION_OF_OBJECTIVES
        description["objective_names"] = None if names is None else list(names)
        description["objective_weights"] = weights.tolist()
    return description, coef, intercept


def _split_pipeline(model):
    """Return the linear probe of a model, its fitted scalers, and its embedder."""
    steps = [s for _, s in model.steps] if isinstance(model, Pipeline) else [model]
    before = [step for step in steps[:-1] if step not in (None, "passthrough")]
    embedder = before.pop(0) if before and _is_embedder(before[0]) else None
    probe = steps[-1]
    scalers = [
        step.transformer if isinstance(step, PerCandidate) else step for step in before
    ]
    unknown = [s for s in scalers if not isinstance(s, StandardScaler)]
    if unknown or not isinstance(probe, BaseQProbe):
        raise TypeError(
            "probe must be a QProbePolicy, QProbePolicyCV or QProbeRegressor, or a "
            "Pipeline of an embedder or none, StandardScaler, or "
            "PerCandidate(StandardScaler()), and one of these; got "
            f"{[probe, *unknown][-1]!r}. For a search, pass its "
            "best_estimator_; for a CalibratedPolicyCV, its policy_. For another "
            "pipeline, pass its last step, and apply the other steps where the probe "
            "is served."
        )
    for step in [*before, probe]:
        check_is_fitted(step)
    if hasattr(probe, "coefs_"):
        raise ValueError(
            f"probe has hidden layers, {probe.hidden_layer_sizes}, but only linear "
            "probes can be exported. Save it with skops, joblib or pickle."
        )
    scalers = [getattr(step, "transformer_", step) for step in before]
    return probe, scalers, embedder


def _is_embedder(step):
    is_single = hasattr(step, "make_texts") and hasattr(step, "inert_parameters")
    return is_single or isinstance(step, EmbedderUnion)


def _describe_embedder(embedder):
    """Return the class and the parameters of an embedder in JSON's types."""
    if not _is_embedder(embedder):
        raise TypeError(f"embedder must be an embedder; got {embedder!r}.")
    cls = type(embedder)
    if isinstance(embedder, EmbedderUnion):
        check_is_fitted(embedder)
        labels = {
            name: encoder.categories_[0].tolist()
            for name, encoder in embedder.encoders_.items()
        }
        return {
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "embedders": [_describe_embedder(each) for each in embedder.embedders_],
            "categories": labels,
        }
    inert = embedder.inert_parameters - {"join"}
    embedder = getattr(embedder, "_shown", lambda: embedder)()  # without secrets
    parameters = {
        name: describe(value)
        for name, value in embedder.get_params(deep=False).items()
        if name not in inert
    }
    return {"class": f"{cls.__module__}.{cls.__qualname__}", **parameters}


def _absorb_scaling(scalers, probe):
    """Compute the coefficients and intercept for features before scaling."""
    coef, intercept = np.asarray(to_host(probe.coef_)), np.asarray(probe.intercept_)
    if coef.ndim == 1 and probe.objective_weights is not None:
        coef, intercept = coef[None], intercept[None]
    for scaler in reversed(scalers):
        coef = coef.astype(np.float64)
        if scaler.with_std:
            coef = coef / scaler.scale_
        if scaler.with_mean:
            intercept = intercept - coef @ scaler.mean_
    return coef, np.asarray(intercept)


def _check_metadata(metadata):
    """Validate metadata, and replace None by an empty dict."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a dict; got {metadata!r}.")
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "metadata must consist of types that JSON supports: dict, list, str, "
            f"finite numbers, True, False and None. The cause: {error}"
        ) from error
    return metadata
