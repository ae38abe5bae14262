"""BestOfK: sample candidates from a live model and choose one of them."""

import asyncio
import copy
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import config_context, get_config
from sklearn.base import clone, is_classifier
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.device import to_host
from skqprobe._candidates.choice import choice_probabilities
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.sampling import sample_candidates
from skqprobe._candidates.stopping import accepted_candidates
from skqprobe._utils.estimator import BaseEstimator
from skqprobe._utils.sklearn_compat import HasMethods, Interval
from skqprobe.embedders._inputs import check_texts
from skqprobe.generators._base import check_prompts
from skqprobe.generators._blocks import join_records
from skqprobe.metrics._values import (
    candidate_values,
    policy_temperature,
    predicted_rewards,
)


class BestOfK(BaseEstimator):
    """Complete prompts with the best of k candidates, chosen by a fitted probe.

    If the last step of `pipeline` is a policy, a candidate is drawn with the
    probabilities of its `predict_proba`; at temperature 0 it is the best one. If it is
    a regressor, the candidate with the highest value of `predict` is chosen. A pipeline
    with a step that takes only rows gets rows, and groups by metadata routing.

    With `stopping`, candidates are drawn in batches until the rule accepts some of
    them, or there are k. All prompts that need more are continued together. After each
    batch the pipeline is applied to all candidates so far, since the values of siblings
    depend on each other. The texts are embedded again each time, unless the embedder
    has a `cache`, or `embeddings` are given.

    Parameters
    ----------
    generator : BaseGenerator
        Generator of the candidates.
    pipeline : estimator
        Fitted pipeline that embeds the candidates and ends with a `QProbePolicy` or a
        regressor of the reward, or a fitted search over such a pipeline. With
        `embeddings`, an estimator that takes arrays.
    k : int
        Number of completions per prompt; with `stopping`, the maximum.
    embeddings : str or list of str, default=None
        Key or keys of the generator's records with arrays of shape (k, n_features) or
        (k,), which are concatenated: "hidden_states", for example, or this and
        "log_likelihoods". If the generator captures them, no second pass over the texts
        is needed. If None, the pipeline gets the records and must begin with an
        embedder.
    stopping : object, default=None
        Stopping rule, such as `ExpectedGain`, `Threshold` or `RejectionSampling`, or
        any object with the method ``accept(values, uniforms)``; see
        :doc:`/guide/cost`. It gets the predicted rewards, if the pipeline is a
        `CalibratedPolicyCV`, and otherwise the values. None draws k candidates.
    batch_size : int, default=4
        Number of completions per prompt that are drawn at a time with `stopping`. A
        generator with a `seed` gets another one for each batch.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice among the candidates and of the rule, if they are random. It
        does not determine the candidates, which depend on the generator.

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
        "stopping": [HasMethods("accept"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        generator,
        pipeline,
        k,
        *,
        embeddings=None,
        stopping=None,
        batch_size=4,
        random_state=None,
    ):
        self.generator = generator
        self.pipeline = pipeline
        self.k = k
        self.embeddings = embeddings
        self.stopping = stopping
        self.batch_size = batch_size
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
            arrays of shape (n_drawn,), "chosen", the index of the chosen candidate,
            "chosen_probability", the probability with which it was chosen, "n_drawn",
            the number of candidates, and "accepted", whether the rule accepted some of
            them. If the pipeline is a `CalibratedPolicyCV`, "predicted_reward" is that
            of the chosen one. Values are those of
            :func:`~skqprobe.metrics.candidate_values`.
            Returned only with ``return_candidates=True``.

        Raises
        ------
        NotFittedError
            If the pipeline or the rule is not fitted. No candidates are sampled then.
        ValueError
            If the generator does not return k completions per prompt, if a record has
            no key of `embeddings`, or if the pipeline does not return one number per
            candidate.
        """
        self._validate_params()
        check_is_fitted(
            self.pipeline,
            msg="pipeline (a %(name)s) is not fitted; fit it to collected records "
            "before you generate.",
        )
        if self.stopping is not None:  # it may not be fitted
            accepted_candidates(self.stopping, *np.zeros((2, 1, 1)))
        records = self._choose(check_prompts(prompts))
        completions = [record["completions"][record["chosen"]] for record in records]
        return (completions, records) if return_candidates else completions

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
            If the generator does not return k completions per prompt, if a record has
            no key of `embeddings`, or if the pipeline does not return one number per
            candidate.
        """
        config = get_config()  # each thread has its own

        def generate():
            with config_context(**config):
                return self.generate(prompts, return_candidates)

        return await asyncio.to_thread(generate)

    def _choose(self, prompts):
        """Draw candidates until they are enough; return records with the choices."""
        rng, adaptive = check_random_state(self.random_state), self.stopping is not None
        size = min(self.batch_size, self.k) if adaptive else self.k
        uniforms = rng.random_sample((len(prompts) if adaptive else 0, self.k))
        records: list[Any] = [None] * len(prompts)
        active, n = np.arange(len(prompts)), 0
        while len(active):
            generator, n_more = self._generator(n // size), min(size, self.k - n)
            drawn = generator.generate([prompts[i] for i in active], n_more)
            _check_drawn(drawn, len(active), n_more)
            n += n_more
            for i, record in zip(active, drawn, strict=True):
                records[i] = join_records(records[i], record)
            values, proba, rewards, of_choice = self._evaluate(
                [records[i] for i in active], n
            )
            accepted: Any = np.ones(values.shape, dtype=bool)
            if adaptive:
                seen = (values if rewards is None else rewards).astype(np.float64)
                among = uniforms[active, :n]
                accepted = accepted_candidates(self.stopping, seen, among)
            is_enough = accepted.any(axis=1)
            ends = np.flatnonzero(is_enough | (n == self.k))
            accepted[~is_enough] = True
            for j in ends:
                choice = _choose_one(values[j], proba[j], accepted[j], rng)
                choice |= {"n_drawn": n, "accepted": bool(is_enough[j])}
                if rewards is not None:
                    as_policy = np.array_equal(choice["probabilities"], proba[j])
                    chosen = rewards[j, choice["chosen"]]
                    reward = of_choice[j] if as_policy else chosen
                    choice["predicted_reward"] = float(reward)
                records[active[j]] |= choice
            active = np.delete(active, ends)
        return records

    def _generator(self, number):
        """Return the generator of a batch: one with a seed would repeat itself."""
        seed = getattr(self.generator, "seed", None)
        if number == 0 or seed is None:
            return self.generator
        seed = np.random.SeedSequence([seed, number]).generate_state(1)[0]
        return clone(self.generator).set_params(seed=int(seed))

    def _evaluate(self, records, k):
        """Return values and probabilities, of shape (n_prompts, k), and rewards.

        The predicted rewards of the candidates, and of the choice; or None for both.
        """
        model = getattr(self.pipeline, "best_estimator_", self.pipeline)
        X, groups, labels = self._embedded(records), None, {}
        if hasattr(model, "extract_answers"):  # an AnswerVote
            labels["answers"] = model.extract_answers(records)
        if _takes_sets(model):
            model, X = _last_step(model, X)  # embeds once for all methods
        else:
            X, groups = _to_rows(X), np.repeat(np.arange(len(records)), k)
        shape = len(records), k
        if groups is None and hasattr(model, "predict_proba"):
            proba = values = _check_shape(model.predict_proba(X, **labels), shape)
            if hasattr(model, "decision_function"):
                values = _check_shape(model.decision_function(X, **labels), shape)
        else:
            values = _check_shape(candidate_values(model, X, groups), shape)
            temperature = policy_temperature(model) if _is_policy(model) else 0
            layout = check_layout(shape)
            flat = values.reshape(-1).astype(np.float64)
            proba = choice_probabilities(flat, layout, temperature).reshape(shape)
        if not hasattr(model, "predict_reward"):
            return values, proba, None, None
        rewards = _check_shape(predicted_rewards(model, X, groups), shape)
        return values, proba, rewards, model.predict_reward(X, groups)

    def _embedded(self, records):
        """Return the input of the pipeline: the records, or their arrays."""
        if self.embeddings is None:
            return records
        return stack_embeddings(records, self.embeddings)


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


def _check_shape(values, shape):
    values = np.asarray(values)
    if values.size != np.prod(shape):
        raise ValueError(
            f"The pipeline must return one number for each of the {shape[1]} "
            f"candidates of {shape[0]} prompts; got shape {values.shape}."
        )
    if np.isnan(values).any():
        raise ValueError(
            "The pipeline returned NaN for a candidate, so there is no best one; check "
            "its embedding."
        )
    return values.reshape(shape)


def _check_drawn(records, n_prompts, k):
    """Raise unless a generator returned k completions for each prompt."""
    sizes = [len(record["completions"]) for record in records]
    if len(sizes) != n_prompts or set(sizes) - {k}:
        raise ValueError(
            f"The generator must return {k} completions for each of {n_prompts} "
            f"prompts; it returned {len(sizes)} records of {min(sizes, default=0)} to "
            f"{max(sizes, default=0)} completions."
        )


def _choose_one(values, proba, among, rng):
    """Choose among some candidates of a prompt: the best, if none is probable."""
    if not among.all():
        proba = np.where(among, proba, 0)
        if not proba.any():
            best = np.where(among, values, -np.inf)
            proba = (best == best.max()).astype(np.float64)
        proba = proba / proba.sum()
    chosen = int(sample_candidates(proba[None], random_state=rng)[0])
    return {
        "values": values,
        "probabilities": proba,
        "chosen": chosen,
        "chosen_probability": float(proba[chosen]),
    }


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


def _is_wrapper(model):
    """Return whether a model is a CalibratedPolicyCV, or an AnswerVote of a policy."""
    marks = hasattr(model, "choice_calibrator_") or hasattr(model, "extract_answers")
    return marks and model.policy_ is not None


def _steps(model):
    """Yield the steps of pipelines, searches and calibrations, which may be nested."""
    model = getattr(model, "best_estimator_", model)
    if _is_wrapper(model):
        yield from _steps(model.policy_)
        return
    if not hasattr(model, "steps"):
        yield model
        return
    for _, step in model.steps:
        yield from _steps(step)


def _last_step(model, X):
    """Return the last step of pipelines and searches, and its X."""
    if hasattr(model, "best_estimator_"):
        return _last_step(model.best_estimator_, X)
    # A vote that is calibrated finds the answers in the texts.
    if _is_wrapper(model) and not hasattr(model.policy_, "extract_answers"):
        model = copy.copy(model)
        model.policy_, X = _last_step(model.policy_, X)
    elif hasattr(model, "steps"):
        if len(model.steps) > 1:
            X = model[:-1].transform(X)
        return _last_step(model.steps[-1][1], X)
    return model, X


def _to_rows(X):
    """Convert records or sets to rows, for a pipeline that does not take sets."""
    if isinstance(X, np.ndarray):
        return X.reshape(-1, X.shape[-1])
    rows = check_texts(X)
    return list(zip(rows.prompts, rows.completions, strict=True))
