"""Scores of a network, and the objective of its training."""

from itertools import pairwise

import numpy as np
from sklearn.utils import gen_batches

from skqprobe._arrays.blocks import BLOCK_BYTES, BlockReader, compute_dtype
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._objectives.base import center_per_prompt


def network_scores(X, coefs, intercepts):
    """Compute the scores of a network with ReLU between its layers, in blocks.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings in any order.
    coefs : list of ndarray of shape (fan_in, fan_out)
        Weights of the layers; the fan_out of the last is the number of scores. It may
        be of shape (fan_in,) for one score.
    intercepts : list of ndarray of shape (fan_out,)
        Biases of the layers.

    Returns
    -------
    scores : ndarray of shape (n_rows,) or (n_rows, n_scores)
        Scores in the dtype of X, or float32 for float16.
    """
    dtype = compute_dtype(X)
    layers = [
        (coef.astype(dtype, copy=False), intercept.astype(dtype, copy=False))
        for coef, intercept in zip(coefs, intercepts, strict=True)
    ]
    widest = max(max(coef.shape) for coef in coefs)
    step = max(1, BLOCK_BYTES // (widest * dtype.itemsize))
    if coefs[-1].shape[1:] == (1,):
        layers[-1] = layers[-1][0][:, 0], layers[-1][1][0]
    scores = np.empty((len(X), *layers[-1][0].shape[1:]), dtype=dtype)
    read = BlockReader(X)
    for rows in gen_batches(len(X), step):
        hidden = read(rows)
        for coef, intercept in layers[:-1]:
            hidden = hidden @ coef
            hidden += intercept
            np.maximum(hidden, 0, out=hidden)
        coef, intercept = layers[-1]
        scores[rows] = hidden @ coef + intercept
    return scores


class NetworkObjective:
    """Mean loss of a network over prompts, in batches of whole prompts.

    The network has an output per reward of a candidate. Their losses are added, and
    they share all layers but the last.

    The parameters theta are the weights of all layers, one layer after the other, and
    then their biases. The biases of the last layer are missing if there is no
    intercept. The solver adds the penalty, ``alpha / 2`` times the squares of the
    weights.

    Parameters
    ----------
    objectives : list of Objective
        Objectives of the outputs, which differ only in rewards and weights of the
        prompts.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers.
    origin : ndarray of int, of shape (layout.n_prompts,), default=None
        Prompt to which each candidate set belongs, if prompts were split into sets. All
        sets of a prompt are held out together.
    """

    def __init__(self, objectives, hidden_layer_sizes, origin=None):
        first = objectives[0]
        self.objectives, self.X, self.layout = objectives, first.X, first.layout
        self.loss, self.alpha, self.columns = first.loss, first.alpha, first.columns
        self.dtype, self.n_features = first.dtype, first.n_features
        self.has_intercept = first.has_intercept
        self.prompt_weight = sum(objective.prompt_weight for objective in objectives)
        self.total_weight = sum(objective.total_weight for objective in objectives)
        self.origin = np.arange(self.layout.n_prompts) if origin is None else origin
        widths = [self.n_features, *hidden_layer_sizes, len(objectives)]
        self.layer_shapes = list(pairwise(widths))
        n_weights = sum(fan_in * fan_out for fan_in, fan_out in self.layer_shapes)
        n_biases = sum(widths[1:]) if self.has_intercept else sum(widths[1:-1])
        self.n_parameters = n_weights + n_biases

    def split(self, theta):
        """Split theta into weights of shape (fan_in, fan_out) and biases, by layer."""
        fan_outs = [fan_out for _, fan_out in self.layer_shapes]
        n_weights = [fan_in * fan_out for fan_in, fan_out in self.layer_shapes]
        parts = np.split(theta, np.cumsum(n_weights + fan_outs)[:-1])
        weights, biases = parts[: len(n_weights)], parts[len(n_weights) :]
        if not self.has_intercept:
            biases[-1] = np.zeros(fan_outs[-1])
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
            Function that maps scores of shape (n, n_outputs) to the weighted sum of the
            losses of these prompts, (n_outputs,), and its derivative with respect to
            the scores.
        """
        sizes = self.layout.sizes[prompts]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        starts = self.layout.offsets[prompts] - offsets[:-1]
        rows = np.repeat(starts, sizes) + np.arange(offsets[-1])
        copies = repeat_per_prompt(self.prompt_weight[prompts], offsets)
        candidate_weight = self.objectives[0]._weight(rows)
        if candidate_weight is not None:
            copies = copies * candidate_weight

        def loss(scores):
            terms = [
                objective._weighted_loss(z, prompts, rows, offsets)
                for objective, z in zip(self.objectives, scores.T.copy(), strict=True)
            ]
            values, slopes = zip(*terms, strict=True)
            return np.array(values), np.stack(slopes, axis=1)

        X = np.array(self.objectives[0]._read(rows))
        if self.columns is not None:
            mean, scale = self.columns
            X -= mean.astype(X.dtype)
            X /= scale.astype(X.dtype)
        return X, copies, loss

    def score_scale(self):
        """Estimate the center and the spread of the optimal scores of each output.

        For a least-squares loss, these are mean and standard deviation of the targets.
        The scores of other losses are of order 1.

        Returns
        -------
        centers : ndarray of shape (n_outputs,)
            Means of the scores, 0 if there is no intercept.
        spreads : ndarray of shape (n_outputs,)
            Standard deviations of the scores, above 0.
        """
        scales = [_score_scale(objective) for objective in self.objectives]
        return tuple(np.array(part) for part in zip(*scales, strict=True))


def _score_scale(objective):
    """Estimate center and spread of the optimal scores of one output."""
    loss, offsets = objective.loss, objective.layout.offsets
    if not hasattr(loss, "least_squares") or not objective.prompt_weight.any():
        return 0.0, 1.0
    every = slice(None)
    v, t = objective._least_squares_terms(every, every, offsets)
    if loss.shift_invariant:
        t = center_per_prompt(t, offsets, objective.candidate_weight)
    center = np.average(t, weights=v) if objective.has_intercept else 0.0
    return center, np.sqrt(np.average((t - center) ** 2, weights=v)) or 1.0
