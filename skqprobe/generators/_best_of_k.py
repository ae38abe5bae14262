"""BestOfK: sample candidates from a live model and choose one of them."""

import asyncio
from numbers import Integral

import numpy as np
from sklearn import config_context, get_config
from sklearn.base import is_classifier
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.device import to_host
from skqprobe._candidates.choice import choice_probabilities
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.sampling import sample_candidates
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import HasMethods, Interval
from skqprobe.embedders._inputs import check_texts
from skqprobe.generators._base import check_prompts
from skqprobe.metrics._values import candidate_values, policy_temperature


class BestOfK(BaseEstimator):
    """Complete prompts with the best of k candidates, chosen by a fitted probe.

    If the last step of `pipeline` is a policy, a candidate is drawn with the
    probabilities of its `predict_proba`; at temperature 0 it is the best one. If it is
    a regressor, the candidate with the highest value of `predict` is chosen. A pipeline
    with a step that takes only rows gets rows, and groups by metadata routing.

    Parameters
    ----------
    generator : BaseGenerator
        Generator of the candidates.
    pipeline : estimator
        Fitted pipeline that embeds the candidates and ends with a `QProbePolicy` or a
        regressor of the reward, or a fitted search over such a pipeline. With
        `embeddings`, an estimator that takes arrays.
    k : int
        Number of completions per prompt.
    embeddings : str or list of str, default=None
        Key or keys of the generator's records with arrays of shape (k, n_features) or
        (k,), which are concatenated: "hidden_states", for example, or this and
        "log_likelihoods". If the generator captures them, no second pass over the texts
        is needed. If None, the pipeline gets the records and must begin with an
        embedder.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice among the candidates, if it is random. It does not determine
        the candidates, which depend on the generator.

    See Also
    --------
    collect : Collect the records to which the pipeline is fitted.

    Examples
    --------
    >>> import random
    >>> import numpy as np
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.generators import BaseGenerator, BestOfK, collect
    >>> class Repeat(BaseGenerator):
    ...     def __init__(self, progress="auto"):
    ...         self.progress = progress
    ...
    ...     def sample(self, prompt, k):
    ...         draw = random.Random(prompt)
    ...         texts = [prompt * draw.randint(1, 9) for _ in range(k)]
    ...         states = np.array([[len(text)] for text in texts])
    ...         return {"prompt": prompt, "completions": texts, "hidden_states": states}
    >>> def is_short(item, completion):
    ...     return len(completion) < 4
    >>> records = collect(["a", "b", "c", "d"], Repeat(), is_short, k=8)
    >>> X = np.stack([record["hidden_states"] for record in records])
    >>> y = [record["rewards"] for record in records]
    >>> policy = QProbePolicy(loss="log_loss").fit(X, y)
    >>> best = BestOfK(Repeat(), policy, k=8, embeddings="hidden_states")
    >>> best.generate(["x", "y"])
    ['xx', 'yy']
    """

    _parameter_constraints: dict = {
        "generator": [HasMethods("generate")],
        "pipeline": [HasMethods("predict")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "embeddings": [str, list, None],
        "random_state": ["random_state"],
    }

    def __init__(self, generator, pipeline, k, *, embeddings=None, random_state=None):
        self.generator = generator
        self.pipeline = pipeline
        self.k = k
        self.embeddings = embeddings
        self.random_state = random_state

    def generate(self, prompts, return_candidates=False):
        """Sample candidates for each prompt and choose one.

        Parameters
        ----------
        prompts : list of (str, list of dict, or dict), or data frame
            Prompts or items, as :func:`collect` takes them.
        return_candidates : bool, default=False
            Whether to return all candidates, too.

        Returns
        -------
        completions : list of str
            Chosen completions, one per prompt.
        records : list of dict
            Records of the generator, one per prompt, with "values" and "probabilities",
            arrays of shape (k,), "chosen", the index of the chosen candidate, and
            "chosen_probability", the probability with which it was chosen.
            Values are those of :func:`~skqprobe.metrics.candidate_values`.
            Returned only with ``return_candidates=True``.

        Raises
        ------
        NotFittedError
            If the pipeline is not fitted. No candidates are sampled then.
        ValueError
            If a record has no key of `embeddings`, or if the pipeline does not return
            one number per candidate.
        """
        self._validate_params()
        check_is_fitted(
            self.pipeline,
            msg="pipeline (a %(name)s) is not fitted; fit it to collected records "
            "before you generate.",
        )
        records = self.generator.generate(check_prompts(prompts), self.k)
        if not records:
            return ([], []) if return_candidates else []
        values, proba = self._values_and_probabilities(records)
        chosen = sample_candidates(proba, random_state=self.random_state)
        completions = [
            record["completions"][i] for record, i in zip(records, chosen, strict=True)
        ]
        if not return_candidates:
            return completions
        return completions, [
            {
                **record,
                "values": value,
                "probabilities": p,
                "chosen": int(i),
                "chosen_probability": float(p[i]),
            }
            for record, value, p, i in zip(records, values, proba, chosen, strict=True)
        ]

    async def agenerate(self, prompts, return_candidates=False):
        """Sample candidates for each prompt and choose one, in a thread.

        The event loop goes on in the meantime.

        Parameters
        ----------
        prompts : list of (str, list of dict, or dict), or data frame
            Prompts or items, as :func:`collect` takes them.
        return_candidates : bool, default=False
            Whether to return all candidates, too.

        Returns
        -------
        completions : list of str
            Chosen completions, one per prompt.
        records : list of dict
            Records of the generator; see `generate`. Returned only with
            ``return_candidates=True``.

        Raises
        ------
        NotFittedError
            If the pipeline is not fitted. No candidates are sampled then.
        ValueError
            If a record has no key of `embeddings`, or if the pipeline does not return
            one number per candidate.
        """
        config = get_config()  # each thread has its own

        def generate():
            with config_context(**config):
                return self.generate(prompts, return_candidates)

        return await asyncio.to_thread(generate)

    def _values_and_probabilities(self, records):
        """Return value and probability of each candidate, of shape (n_prompts, k)."""
        X, takes_sets = self._embedded(records), _takes_sets(self.pipeline)
        if takes_sets and hasattr(self.pipeline, "predict_proba"):
            model, X = _last_step(self.pipeline, X)  # embeds once for both
            proba = self._check_shape(model.predict_proba(X), records)
            if not hasattr(model, "decision_function"):
                return proba, proba
            return self._check_shape(model.decision_function(X), records), proba
        groups = None
        if not takes_sets:
            X, groups = _to_rows(X), np.repeat(np.arange(len(records)), self.k)
        values = candidate_values(self.pipeline, X, groups)
        values = self._check_shape(values, records)
        temperature = (
            policy_temperature(self.pipeline) if _is_policy(self.pipeline) else 0
        )
        layout = check_layout(values.shape, None)
        proba = choice_probabilities(
            values.reshape(-1).astype(np.float64), layout, temperature
        )
        return values, layout.to_user_order(proba)

    def _embedded(self, records):
        """Return the input of the pipeline: the records, or their arrays."""
        if self.embeddings is None:
            return records
        return stack_embeddings(records, self.embeddings)

    def _check_shape(self, values, records):
        values = np.asarray(values)
        if values.size != len(records) * self.k:
            raise ValueError(
                f"The pipeline must return one number for each of the {self.k} "
                f"candidates of {len(records)} prompts; got shape {values.shape}."
            )
        return values.reshape(len(records), self.k)


def stack_embeddings(records, keys):
    """Make candidate sets from arrays in records.

    Parameters
    ----------
    records : list of dict
        Records of a generator or of `collect`, all with the same number of completions.
    keys : str or list of str
        Keys of arrays of shape (k, n_features) or (k,), such as "hidden_states".

    Returns
    -------
    X : ndarray of shape (n_prompts, k, n_features)
        Concatenated arrays of all keys.

    Raises
    ------
    ValueError
        If a record does not have a key.

    Examples
    --------
    >>> from skqprobe.generators import stack_embeddings
    >>> records = [{"hidden_states": [[1.0, 2.0], [3.0, 4.0]], "n_tokens": [5, 6]}]
    >>> stack_embeddings(records, ["hidden_states", "n_tokens"])
    array([[[1., 2., 5.],
            [3., 4., 6.]]])
    """
    names = [keys] if isinstance(keys, str) else keys
    for i, record in enumerate(records):
        lacking = [key for key in names if record.get(key) is None]
        if lacking:
            raise ValueError(
                f"embeddings={keys!r}, but record {i} of the generator has no "
                f"{lacking[0]!r}; it has the keys {sorted(record)}. Set the generator "
                "to capture it (TransformersGenerator(hidden_states=...)), or use a "
                "pipeline with an embedder and embeddings=None."
            )
    return np.stack(
        [np.column_stack([to_host(r[key], key) for key in names]) for r in records]
    )


def _is_policy(model):
    """Return whether a model is a policy, in any wrapper."""
    return hasattr(model, "predict_proba") and not is_classifier(model)


def _takes_sets(model):
    """Return whether a model takes sets, of shape (n_prompts, k, n_features)."""
    *steps, last = _steps(model)
    if any(_takes_only_rows(step) for step in steps):
        return False
    # A policy needs sets, in any wrapper: each row would be a prompt of its own.
    # Pipelines and searches do not forward the tag.
    return _is_policy(model) or get_tags(last).input_tags.three_d_array


def _takes_only_rows(step):
    """Return whether a fitted transformer has validated its X as two-dimensional."""
    if not hasattr(step, "n_features_in_"):
        return False
    tags = get_tags(step)
    return not (tags.input_tags.three_d_array or tags.no_validation)


def _steps(model):
    """Yield the steps of pipelines and searches, which may be nested."""
    model = getattr(model, "best_estimator_", model)
    if not hasattr(model, "steps"):
        yield model
        return
    for _, step in model.steps:
        yield from _steps(step)


def _last_step(model, X):
    """Return the last step of pipelines and searches, and its X."""
    while hasattr(model, "best_estimator_") or hasattr(model, "steps"):
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            if len(model.steps) > 1:
                X = model[:-1].transform(X)
            model = model.steps[-1][1]
    return model, X


def _to_rows(X):
    """Convert records or sets to rows, for a pipeline that does not take sets."""
    if isinstance(X, np.ndarray):
        return X.reshape(-1, X.shape[-1])
    rows = check_texts(X)
    return list(zip(rows.prompts, rows.completions, strict=True))
