"""Scores of a network, and the objective that its training minimises."""

from itertools import pairwise

import numpy as np

from skqprobe._arrays.blocks import BLOCK_BYTES, BlockReader, compute_dtype
from skqprobe._candidates.segments import repeat_per_prompt, segment_mean
from skqprobe._objectives.base import Objective


def network_scores(X, coefs, intercepts):
    """Compute the scores of a network with ReLU between its layers, block by block.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Rows in any order.
    coefs : list of ndarray of shape (fan_in, fan_out)
        Weights of the layers; the last has a fan_out of 1.
    intercepts : list of ndarray of shape (fan_out,)
        Biases of the layers.

    Returns
    -------
    scores : ndarray of shape (n_rows,), of X's dtype, float32 if that is float16
    """
    dtype = compute_dtype(X)
    layers = [
        (coef.astype(dtype, copy=False), intercept.astype(dtype, copy=False))
        for coef, intercept in zip(coefs, intercepts, strict=True)
    ]
    widest = max(max(coef.shape) for coef in coefs)
    step = max(1, BLOCK_BYTES // (widest * dtype.itemsize))
    scores = np.empty(len(X), dtype=dtype)
    read = BlockReader(X)
    for start in range(0, len(X), step):
        rows = slice(start, start + step)
        values = read(rows)
        for coef, intercept in layers[:-1]:
            values = values @ coef
            values += intercept
            np.maximum(values, 0, out=values)
        coef, intercept = layers[-1]
        scores[rows] = values @ coef[:, 0] + intercept
    return scores


class NetworkObjective(Objective):
    """Mean loss of a network over prompts, in batches of whole prompts.

    The parameters theta are the weights of all layers, one layer after the other, and
    then their biases; the last bias, that of the score, only if there is an intercept.
    The solver adds the penalty, ``alpha / 2`` times the squares of the weights.

    Parameters
    ----------
    X, layout, rewards, loss, **settings
        See Objective.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers.
    origin : ndarray of shape (layout.n_prompts,), default=None
        Equal numbers mark sets that were dealt from one prompt, which are held out
        together. None if every prompt is its own.
    """

    def __init__(
        self,
        X,
        layout,
        rewards,
        loss,
        *,
        hidden_layer_sizes,
        origin=None,
        **settings,
    ):
        super().__init__(X, layout, rewards, loss, **settings)
        self.origin = np.arange(layout.n_prompts) if origin is None else origin
        widths = [self.n_features, *hidden_layer_sizes, 1]
        self.layer_shapes = list(pairwise(widths))
        n_weights = sum(fan_in * fan_out for fan_in, fan_out in self.layer_shapes)
        self.n_parameters = n_weights + sum(widths[1:-1]) + self.has_intercept

    def split(self, theta):
        """Weights of shape (fan_in, fan_out) and biases of the layers."""
        fan_outs = [fan_out for _, fan_out in self.layer_shapes]
        sizes = [fan_in * fan_out for fan_in, fan_out in self.layer_shapes]
        parts = np.split(theta, np.cumsum(sizes + fan_outs)[:-1])
        weights, biases = parts[: len(sizes)], parts[len(sizes) :]
        if not self.has_intercept:
            biases[-1] = np.zeros(1)
        shaped = zip(weights, self.layer_shapes, strict=True)
        return [weight.reshape(shape) for weight, shape in shaped], biases

    def join(self, weights, biases):
        """Make theta of weights and biases; the inverse of `split`."""
        theta = np.concatenate([part.reshape(-1) for part in (*weights, *biases)])
        return theta[: self.n_parameters]

    def deal(self, random_state):
        """Deal prompts of weight above 0 into those to train on and a tenth held out.

        Returns
        -------
        train, held_out : ndarray of int
            Numbers of prompts. None is held out of fewer than ten.
        """
        prompts = np.flatnonzero(self.prompt_weight)
        origins = np.unique(self.origin[prompts])
        if len(origins) < 10:
            return prompts, prompts[:0]
        chosen = random_state.choice(origins, len(origins) // 10, replace=False)
        held_out = np.isin(self.origin[prompts], chosen)
        return prompts[~held_out], prompts[held_out]

    def batches(self, prompts, n_rows, n_least=1):
        """Cut prompts into batches of whole prompts and about equal numbers of rows.

        At most `n_rows` each, and so few that there are `n_least` batches, as far as
        whole prompts allow.
        """
        ends = np.cumsum(self.layout.sizes[prompts])
        n_batches = max(n_least, -(-ends[-1] // n_rows))
        number = (ends - 1) * n_batches // ends[-1]
        return np.split(prompts, np.flatnonzero(np.diff(number)) + 1)

    def read(self, prompts):
        """Read whole prompts.

        Returns
        -------
        X : ndarray of shape (n, d)
            The embeddings of their candidates: a copy.
        copies : ndarray of shape (n,)
            The weight of each row.
        loss : callable
            Maps scores of shape (n,) to the weighted sum of these prompts' losses, and
            its derivative with respect to the scores.
        """
        sizes = self.layout.sizes[prompts]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        starts = self.layout.offsets[prompts] - offsets[:-1]
        rows = np.repeat(starts, sizes) + np.arange(offsets[-1])
        prompt_weight, candidate_weight = (
            self.prompt_weight[prompts],
            self._weight(rows),
        )
        by_row = repeat_per_prompt(prompt_weight, offsets)

        def loss(scores):
            values, slope = self.loss.value_and_gradient(
                scores, self.rewards[rows], offsets, candidate_weight
            )
            return prompt_weight @ values, by_row * slope

        copies = by_row if candidate_weight is None else by_row * candidate_weight
        return np.array(self._read(rows)), copies, loss

    def score_scale(self):
        """Where the best scores lie, and how far they spread.

        Least squares are told both by their targets; the scores of other losses are of
        order 1.

        Returns
        -------
        center : float
            0 if there is no intercept.
        spread : float
            Above 0.
        """
        if not hasattr(self.loss, "least_squares"):
            return 0.0, 1.0
        every, offsets = slice(None), self.layout.offsets
        v, t = self._least_squares_terms(every, every, offsets)
        if self.loss.shift_invariant:
            t = t - repeat_per_prompt(
                segment_mean(t, offsets, self.candidate_weight), offsets
            )
        center = np.average(t, weights=v) if self.has_intercept else 0.0
        return center, np.sqrt(np.average((t - center) ** 2, weights=v)) or 1.0
