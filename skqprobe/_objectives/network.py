"""Scores of a network, and the objective of its training."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.utils import gen_batches

from skqprobe._arrays.blocks import BLOCK_BYTES, BlockReader, compute_dtype
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._objectives.base import Objective, center_per_prompt


def network_scores(X, coefs, intercepts):
    """Compute the scores of a network with ReLU between its layers, in blocks.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in any order.
    coefs : list of ndarray of shape (fan_in, fan_out)
        Weights of the layers; the last has a fan_out of 1.
    intercepts : list of ndarray of shape (fan_out,)
        Biases of the layers.

    Returns
    -------
    scores : ndarray of shape (n_rows,)
        Scores in the dtype of X, or float32 for float16.
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
    for rows in gen_batches(len(X), step):
        hidden = read(rows)
        for coef, intercept in layers[:-1]:
            hidden = hidden @ coef
            hidden += intercept
            np.maximum(hidden, 0, out=hidden)
        coef, intercept = layers[-1]
        scores[rows] = hidden @ coef[:, 0] + intercept
    return scores


@dataclass(eq=False, kw_only=True)
class NetworkObjective(Objective):
    """Mean loss of a network over prompts, in batches of whole prompts.

    The parameters theta are the weights of all layers, one layer after the other, and
    then their biases. The bias of the last layer is missing if there is no intercept.
    The solver adds the penalty, ``alpha / 2`` times the squares of the weights.

    Parameters
    ----------
    X, layout, rewards, loss, **settings
        See `Objective`.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers.
    origin : ndarray of int, of shape (layout.n_prompts,), default=None
        Prompt to which each candidate set belongs, if prompts were split into sets. All
        sets of a prompt are held out together.
    """

    hidden_layer_sizes: tuple[int, ...]
    origin: Any = None

    def __post_init__(self):
        super().__post_init__()
        if self.origin is None:
            self.origin = np.arange(self.layout.n_prompts)
        widths = [self.n_features, *self.hidden_layer_sizes, 1]
        self.layer_shapes = list(pairwise(widths))
        n_weights = sum(fan_in * fan_out for fan_in, fan_out in self.layer_shapes)
        self.n_parameters = n_weights + sum(widths[1:-1]) + self.has_intercept

    def split(self, theta):
        """Split theta into weights of shape (fan_in, fan_out) and biases, by layer."""
        fan_outs = [fan_out for _, fan_out in self.layer_shapes]
        n_weights = [fan_in * fan_out for fan_in, fan_out in self.layer_shapes]
        parts = np.split(theta, np.cumsum(n_weights + fan_outs)[:-1])
        weights, biases = parts[: len(n_weights)], parts[len(n_weights) :]
        if not self.has_intercept:
            biases[-1] = np.zeros(1)
        shaped = zip(weights, self.layer_shapes, strict=True)
        return [weight.reshape(shape) for weight, shape in shaped], biases

    def join(self, weights, biases):
        """Join weights and biases into theta, the inverse of `split`."""
        theta = np.concatenate([part.reshape(-1) for part in (*weights, *biases)])
        return theta[: self.n_parameters]

    def split_raw(self, theta):
        """Split theta into weights and biases for X as it is."""
        weights, biases = self.split(theta)
        if self.columns is not None:
            mean, scale = self.columns
            weights[0] = weights[0] / scale[:, None]
            biases[0] = biases[0] - mean @ weights[0]
        return weights, biases

    def join_raw(self, weights, biases):
        """Join weights and biases for X as it is, the inverse of `split_raw`."""
        if self.columns is not None:
            mean, scale = self.columns
            biases = [biases[0] + mean @ weights[0], *biases[1:]]
            weights = [weights[0] * scale[:, None], *weights[1:]]
        return self.join(weights, biases)

    def hold_out(self, random_state):
        """Split the prompts of positive weight into training and held-out prompts.

        Parameters
        ----------
        random_state : RandomState instance
            Generator of the split.

        Returns
        -------
        train, held_out : ndarray of int
            Indices of prompts. A tenth is held out, or none of fewer than ten.
        """
        prompts = np.flatnonzero(self.prompt_weight)
        origins = np.unique(self.origin[prompts])
        if len(origins) < 10:
            return prompts, prompts[:0]
        chosen = random_state.choice(origins, len(origins) // 10, replace=False)
        held_out = np.isin(self.origin[prompts], chosen)
        return prompts[~held_out], prompts[held_out]

    def batches(self, prompts, n_rows, n_least=1):
        """Partition prompts into batches of about equal numbers of rows.

        Parameters
        ----------
        prompts : ndarray of int
            Indices of prompts.
        n_rows : int
            Maximum number of rows in a batch, unless one prompt has more.
        n_least : int, default=1
            Minimum number of batches, if there are as many prompts.

        Returns
        -------
        batches : list of ndarray of int
            Indices of the prompts of each batch, in the given order.
        """
        ends = np.cumsum(self.layout.sizes[prompts])
        n_batches = max(n_least, -(-ends[-1] // n_rows))
        number = (ends - 1) * n_batches // ends[-1]
        return np.split(prompts, np.flatnonzero(np.diff(number)) + 1)

    def read(self, prompts):
        """Read the embeddings of prompts, and make their loss function.

        Parameters
        ----------
        prompts : ndarray of int
            Indices of prompts.

        Returns
        -------
        X : ndarray of shape (n, d)
            Copy of the embeddings of their candidates.
        copies : ndarray of shape (n,)
            Weight of each row.
        loss : callable
            Function that maps scores of shape (n,) to the weighted sum of the losses of
            these prompts, and its derivative with respect to the scores.
        """
        sizes = self.layout.sizes[prompts]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        starts = self.layout.offsets[prompts] - offsets[:-1]
        rows = np.repeat(starts, sizes) + np.arange(offsets[-1])
        copies = repeat_per_prompt(self.prompt_weight[prompts], offsets)
        if self.candidate_weight is not None:
            copies = copies * self.candidate_weight[rows]

        def loss(scores):
            return self._weighted_loss(scores, prompts, rows, offsets)

        X = np.array(self._read(rows))
        if self.columns is not None:
            mean, scale = self.columns
            X -= mean.astype(X.dtype)
            X /= scale.astype(X.dtype)
        return X, copies, loss

    def score_scale(self):
        """Estimate the center and the spread of the optimal scores.

        For a least-squares loss, these are mean and standard deviation of the targets.
        The scores of other losses are of order 1.

        Returns
        -------
        center : float
            Mean of the scores, 0 if there is no intercept.
        spread : float
            Standard deviation of the scores, above 0.
        """
        if not hasattr(self.loss, "least_squares"):
            return 0.0, 1.0
        every, offsets = slice(None), self.layout.offsets
        v, t = self._least_squares_terms(every, every, offsets)
        if self.loss.shift_invariant:
            t = center_per_prompt(t, offsets, self.candidate_weight)
        center = np.average(t, weights=v) if self.has_intercept else 0.0
        return center, np.sqrt(np.average((t - center) ** 2, weights=v)) or 1.0
