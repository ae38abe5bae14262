"""BestOfK: draw candidates from a live model and choose among them."""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skqprobe._choice import sample_candidates
from skqprobe._sklearn import HasMethods, Interval
from skqprobe.embedders._inputs import check_texts


class BestOfK(BaseEstimator):
    """Answer prompts with the best of k candidates, by a fitted probe.

    Parameters
    ----------
    generator : BaseGenerator
        What draws the candidates.
    pipeline : estimator
        A fitted pipeline that embeds the candidates and ends with a `QProbePolicy`, or
        with a regressor of the reward; a fitted search over one; or, with
        `embeddings`, what takes arrays. By a policy's `predict_proba` a candidate is
        drawn (at temperature 0, the best one is taken); of a regressor's `predict` the
        highest is taken.
    k : int
        How many candidates to draw for each prompt.
    embeddings : str, default=None
        The key of the generator's records that holds an array of shape
        (k, n_features): "hidden_states", where the generator captures them as it
        samples, so that no second pass over the texts is needed. None hands the records
        to the pipeline, whose first step is then an embedder.
    random_state : int, RandomState instance or None, default=None
        Determines which candidate is chosen, where that is left to chance. It does not
        determine the candidates: they are the generator's.

    See Also
    --------
    collect : Make what the pipeline is fitted to.

    Examples
    --------
    >>> import random
    >>> import numpy as np
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.generators import BaseGenerator, BestOfK, collect
    >>> class Repeat(BaseGenerator):
    ...     _parameter_constraints: dict = {}
    ...
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
        "embeddings": [str, None],
        "random_state": ["random_state"],
    }

    def __init__(self, generator, pipeline, k, *, embeddings=None, random_state=None):
        self.generator = generator
        self.pipeline = pipeline
        self.k = k
        self.embeddings = embeddings
        self.random_state = random_state

    def generate(self, prompts, return_candidates=False):
        """Draw candidates for each prompt and choose one.

        Parameters
        ----------
        prompts : list of (str or list of dict)
            Texts, or chat messages with the keys "role" and "content".
        return_candidates : bool, default=False
            Whether to return all candidates too.

        Returns
        -------
        completions : list of str
            The chosen completion of each prompt.
        records : list of dict
            Only with ``return_candidates=True``: what the generator gave for each
            prompt, with "probabilities", an array of shape (k,), and "chosen", the
            index of the candidate that was chosen.

        Raises
        ------
        NotFittedError
            If the pipeline is not fitted. Nothing is drawn then.
        ValueError
            If the records lack what `embeddings` names, or the pipeline does not give
            one number for each candidate.
        """
        self._validate_params()
        check_is_fitted(
            self.pipeline,
            msg="pipeline (a %(name)s) is not fitted; fit it on collected records "
            "before candidates are drawn and chosen.",
        )
        records = self.generator.generate(prompts, self.k)
        proba = self._probabilities(records)
        chosen = sample_candidates(proba, random_state=self.random_state)
        completions = [
            record["completions"][i] for record, i in zip(records, chosen, strict=True)
        ]
        if not return_candidates:
            return completions
        return completions, [
            {**record, "probabilities": p, "chosen": int(i)}
            for record, p, i in zip(records, proba, chosen, strict=True)
        ]

    def _probabilities(self, records):
        """Probability of each candidate to be chosen, (n_prompts, k)."""
        X, takes_sets = self._embedded(records), _takes_sets(self.pipeline)
        if takes_sets and hasattr(self.pipeline, "predict_proba"):
            return self._check_shape(self.pipeline.predict_proba(X), records)
        values = self.pipeline.predict(X if takes_sets else _to_rows(X))
        values = self._check_shape(values, records)
        best = values == values.max(axis=1, keepdims=True)
        return best / best.sum(axis=1, keepdims=True)

    def _embedded(self, records):
        """Take what the pipeline does: records, or the array that they hold."""
        if self.embeddings is None:
            return records
        for record in records:
            if record.get(self.embeddings) is None:
                raise ValueError(
                    f"embeddings={self.embeddings!r}, but the generator's records have "
                    f"the keys {sorted(record)}. Have the generator capture them "
                    "(TransformersGenerator(hidden_states=...)), or use a pipeline "
                    "with an embedder and embeddings=None."
                )
        return np.stack([record[self.embeddings] for record in records])

    def _check_shape(self, values, records):
        values = np.asarray(values)
        if values.size != len(records) * self.k:
            raise ValueError(
                f"The pipeline must give one number for each of the {self.k} "
                f"candidates of {len(records)} prompts; it gave shape {values.shape}."
            )
        return values.reshape(len(records), self.k)


def _takes_sets(pipeline):
    """Whether the last step takes candidate sets, (n_prompts, k, n_features)."""
    last = getattr(pipeline, "best_estimator_", pipeline)
    last = last.steps[-1][1] if hasattr(last, "steps") else last
    return get_tags(last).input_tags.three_d_array


def _to_rows(X):
    """Rows of records or of sets, as a plain regressor takes them."""
    if isinstance(X, np.ndarray):
        return X.reshape(-1, X.shape[-1])
    rows = check_texts(X)
    return list(zip(rows.prompts, rows.completions, strict=True))
