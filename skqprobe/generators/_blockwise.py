"""BlockwiseBestOfK: the best of k continuations, block by block."""

from numbers import Integral

import numpy as np

from skqprobe._utils.progress import progress_bar
from skqprobe._utils.sklearn_compat import Interval
from skqprobe.generators._base import name_prompt
from skqprobe.generators._best_of_k import BestOfK
from skqprobe.generators._blocks import join_records, start_blocks, take_candidates


class BlockwiseBestOfK(BestOfK):
    """Complete prompts block by block, each with the best of k, chosen by a probe.

    The model writes `k` beginnings of `block_tokens` tokens. The `keep` candidates with
    the highest values stay, and are continued to `k` candidates of one more block; and
    so on, until all that stay have ended [1]_. The answer is the one with the highest
    value. Fit the pipeline to rows of :func:`~skqprobe.embedders.expand_prefixes` with
    ``every=block_tokens``: it has to value beginnings, too. Read more in
    :doc:`/guide/prefixes`.

    Parameters
    ----------
    generator : TransformersGenerator, OpenAIGenerator, or any BaseGenerator
        Generator of the candidates, with the parameter `max_tokens`, whose method
        `sample` has the parameter `prefix`, and returns "finish_reasons". A
        `TransformersGenerator` keeps the keys and values of the model; a server reads
        the beginnings again.
    pipeline : estimator
        Fitted pipeline that embeds prompts and beginnings, and ends with a regressor of
        the reward or a `QProbePolicy`. With `embeddings`, an estimator that takes
        arrays.
    k : int
        Number of candidates per block.
    block_tokens : int
        Number of tokens per block.
    keep : int, default=1
        Number of candidates that stay after each block. Equal ones count once.
    embeddings : str or list of str, default=None
        Key or keys of the generator's records with arrays of shape (k, n_features) or
        (k,), which are concatenated: "hidden_states", for example, or this and
        "log_likelihoods". If the generator captures them, no second pass over the texts
        is needed. If None, the pipeline gets the records and must begin with an
        embedder.

    See Also
    --------
    BestOfK : Chooses among whole completions.
    skqprobe.embedders.expand_prefixes : Rows of beginnings, to fit the pipeline.

    Notes
    -----
    A candidate that has ended stays as it is, and competes by its value. All candidates
    of a block are valued together, so they are the siblings of each other. With
    ``k=1``, the completions are those of a `TransformersGenerator`.

    Records of a server have the likelihoods and numbers of tokens of whole candidates,
    if it returns those of each block. They have no "likelihood_features".

    References
    ----------
    .. [1] Mudgal, Lee, Ganapathy, Li, Wang, Huang, Chen, Cheng, Collins, Strohman,
       Chen, Beutel, Beirami, "Controlled decoding from language models", ICML 2024,
       arXiv 2310.17022.

    Examples
    --------
    >>> import random
    >>> from sklearn.pipeline import make_pipeline
    >>> from skqprobe import QProbeRegressor
    >>> from skqprobe.embedders import VectorizerEmbedder
    >>> from skqprobe.generators import BaseGenerator, BlockwiseBestOfK
    >>> class Letters(BaseGenerator):  # each letter is a token, and "." ends a text
    ...     def __init__(self, max_tokens=8, progress="auto"):
    ...         self.max_tokens = max_tokens
    ...         self.progress = progress
    ...
    ...     def sample(self, prompt, k, prefix=""):
    ...         draw, n = random.Random(prompt + prefix), self.max_tokens
    ...         texts = ["".join(draw.choices("ab.", k=n)) for _ in range(k)]
    ...         return {
    ...             "prompt": prompt,
    ...             "completions": [prefix + text.split(".")[0] for text in texts],
    ...             "finish_reasons": ["stop" if "." in t else "length" for t in texts],
    ...         }
    >>> def count(texts):
    ...     return [[text.count("a")] for text in texts]
    >>> value = make_pipeline(VectorizerEmbedder(count), QProbeRegressor())
    >>> value = value.fit([("", "a"), ("", "aab"), ("", "b")], [1, 2, 0])
    >>> best = BlockwiseBestOfK(Letters(), value, k=32, block_tokens=2)
    >>> best.generate(["x"])
    ['aaaaaaaa']
    """

    stopping = None  # a parameter of BestOfK

    _parameter_constraints: dict = {
        name: BestOfK._parameter_constraints[name]
        for name in ("generator", "pipeline", "k", "embeddings")
    } | {
        "block_tokens": [Interval(Integral, 1, None, closed="left")],
        "keep": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self, generator, pipeline, k, block_tokens, keep=1, *, embeddings=None
    ):
        self.generator = generator
        self.pipeline = pipeline
        self.k = k
        self.block_tokens = block_tokens
        self.keep = keep
        self.embeddings = embeddings

    def generate(self, prompts, return_candidates=False):
        """Complete each prompt block by block.

        Parameters
        ----------
        prompts : list of (str, list of dict, or dict), or data frame
            Prompts or items, as :func:`collect` takes them.
        return_candidates : bool, default=False
            Whether to return the candidates of all blocks, too.

        Returns
        -------
        completions : list of str
            Chosen completions, one per prompt.
        records : list of dict
            Records of the generator, one per prompt, of the candidates after the last
            block, with "values", an array of shape (n_candidates,), "chosen", the index
            of the chosen one, and "steps": for each block a dict with the
            "completions", their "values", the indices "kept" of those that stay, best
            first, and "n_tokens", the number of tokens that were drawn, without those
            that end a completion, if the generator counts them. Returned only with
            ``return_candidates=True``.

        Raises
        ------
        NotFittedError
            If the pipeline is not fitted. No candidates are sampled then.
        ValueError
            If `keep` is more than `k`, if the generator cannot continue a prefix, if a
            record has no key of `embeddings`, or if the pipeline does not return one
            number per candidate.
        """
        return super().generate(prompts, return_candidates)

    def _choose(self, prompts):
        """Return records with the choices."""
        if self.keep > self.k:
            raise ValueError(
                f"keep={self.keep}, but there are only k={self.k} candidates; set a "
                "smaller one."
            )
        self.generator._check_settings(self.k)
        self.generator._check_continues(prompts)
        progress = self.generator.progress
        with progress_bar(progress, len(prompts), type(self).__name__, "prompt") as bar:
            records = []
            for i, prompt in enumerate(prompts):
                try:
                    records.append(self._write(prompt))
                except Exception as error:
                    raise name_prompt(error, i, prompt) from error
                bar.update()
        return records

    def _write(self, prompt):
        """Write candidates of a prompt until those that stay have ended."""
        blocks = start_blocks(self.generator, prompt, self.k)
        left, parents = self.generator.max_tokens, np.zeros(self.k, dtype=int)
        ended, before, steps = None, np.zeros(1), []
        while True:
            n_tokens = min(self.block_tokens, left)
            left -= n_tokens
            drawn = blocks.extend(parents, n_tokens)
            record = join_records(ended, drawn)
            n_ended = len(record["completions"]) - len(parents)
            values = self._evaluate([record], len(record["completions"]))[0][0]
            kept = self._keep(record, values)
            step = {"completions": record["completions"], "values": values}
            steps.append(step | {"kept": kept})
            after = drawn.get("n_tokens", [None] * len(parents))
            after = np.array(after, dtype=np.float64)  # None becomes NaN
            # A stop string may remove tokens of earlier blocks.
            n_drawn = np.maximum(after - before[parents], 0).sum()
            if not np.isnan(n_drawn):
                steps[-1]["n_tokens"] = int(n_drawn)
            before = after
            reasons = np.array(record["finish_reasons"])[kept]
            goes_on = (reasons == "length") & (kept >= n_ended) & (left > 0)
            if not goes_on.any():
                chosen = {"values": values, "chosen": int(kept[0]), "steps": steps}
                return record | chosen
            ended = None
            if not goes_on.all():
                ended = take_candidates(record, kept[~goes_on])
            numbers = kept[goes_on] - n_ended
            size = self.k - (~goes_on).sum()
            parents = np.sort(np.resize(numbers, size))

    def _keep(self, record, values):
        """Return the numbers of the candidates that stay, best first."""
        kept: dict = {}
        for i in np.argsort(-values, kind="stable").tolist():
            key = record["completions"][i], record["finish_reasons"][i]
            kept.setdefault(key, i)
        return np.array([*kept.values()][: self.keep])
