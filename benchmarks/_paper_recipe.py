"""PaperRecipe: a probe with the training of the paper.

Li et al., "Q-Probe: A Lightweight Approach to Reward Maximization for Language Models",
ICML 2024, arXiv 2402.14688; settings from the authors' public code for the coding tasks
(github.com/likenneth/q_probe, the trainer and the sweep in code_exp).

**Published.** Linear probes, or one or two hidden layers of 256 with ReLU; the random
initialization of PyTorch; float32, features without scaling; AdamW with a learning rate
of 5e-5, no weight decay and no schedule; 150 epochs, each in a new order, without
held-out data or early stopping. A batch is 1000 candidates of any prompts for L_Q
(squared error) and L_CE (cross-entropy of the sigmoid). For L_PG (minus the expected
reward) it is 100 sets of 10 candidates of one prompt, with a softmax at temperature 1
over each set. The sets are drawn again in each epoch, by one permutation of the
candidates' positions that all prompts share. If there are fewer candidates, all are one
batch. Candidates that do not fill a batch are left out of the epoch.

**Our reading, where the recipe is not explicit.** Candidates that do not fill a set of
10 are left out of the epoch (the authors' prompts had 200 or 100 each); a prompt of
fewer than 10 candidates is one set. Rewards that are fractions are probabilities to
L_CE; the authors' code converts them to integers, and their rewards were 0 and 1. The
authors subtract a mean from the rewards for L_PG. It is left out here, because
subtracting a constant changes no gradient of L_PG.

The recipe was made for 92,800 candidates and 4096 features: 92 steps per epoch and
13,800 in all. AdamW changes a weight by about the learning rate per step, so that on
small data, with few steps, a probe stays near its random start. `n_steps_` is the
number of steps.
"""

from itertools import pairwise

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

LEARNING_RATE = 5e-5
BATCH_SIZE = 1000
SET_SIZE = 10
LOSSES = ("squared_error", "log_loss", "policy_gradient")


class PaperRecipe(BaseEstimator):
    """Probe on candidate sets, with the training of the paper.

    Parameters
    ----------
    loss : {"squared_error", "log_loss", "policy_gradient"}, default="policy_gradient"
        Loss; the paper's L_Q, L_CE and L_PG.
    hidden_layer_sizes : tuple of int, default=()
        Numbers of hidden units; (), (256,) and (256, 256) in the paper.
    n_epochs : int, default=150
        Number of epochs.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the initialization and the batches.

    Attributes
    ----------
    network_ : torch.nn.Sequential
        Probe.
    n_steps_ : int
        Number of steps of AdamW.
    """

    def __init__(
        self,
        loss="policy_gradient",
        *,
        hidden_layer_sizes=(),
        n_epochs=150,
        random_state=None,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.n_epochs = n_epochs
        self.random_state = random_state

    def fit(self, X, y):
        """Train the probe.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features)
            Embeddings of candidates.
        y : array-like of shape (n_prompts, k)
            Rewards, in [0, 1] for "log_loss".

        Returns
        -------
        self : object
            Fitted estimator.
        """
        torch = import_torch()
        X, y = np.asarray(X, dtype=np.float32), np.asarray(y, dtype=np.float32)
        self._check(X, y)
        rows = torch.from_numpy(X.reshape(-1, X.shape[2]))
        rewards = torch.from_numpy(y.ravel())
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        n_steps = 0
        with torch.random.fork_rng(devices=[]):  # torch's global state does not change
            torch.manual_seed(seed)
            network = make_network(X.shape[2], self.hidden_layer_sizes)
            optimizer = torch.optim.AdamW(
                network.parameters(), lr=LEARNING_RATE, weight_decay=0.0
            )
            for _ in range(self.n_epochs):
                for batch in self._batches(*y.shape):
                    loss = self._loss(network(rows[batch])[..., 0], rewards[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    n_steps += 1
        self.network_, self.n_steps_ = network, n_steps
        return self

    def decision_function(self, X):
        """Compute the value of each candidate.

        Parameters
        ----------
        X : array-like of shape (n_prompts, k, n_features)
            Embeddings of candidates.

        Returns
        -------
        Q : ndarray of shape (n_prompts, k)
            Values.
        """
        check_is_fitted(self)
        torch = import_torch()
        with torch.no_grad():
            X = torch.from_numpy(np.asarray(X, dtype=np.float32))
            return self.network_(X)[..., 0].numpy()

    def _check(self, X, y):
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}; got {self.loss!r}.")
        if X.ndim != 3 or y.shape != X.shape[:2]:
            raise ValueError(
                "X must have shape (n_prompts, k, n_features) and y (n_prompts, k); "
                f"got {X.shape} and {y.shape}."
            )
        if self.loss == "log_loss" and not ((y >= 0) & (y <= 1)).all():
            raise ValueError("y must lie in [0, 1] for loss='log_loss'.")

    def _batches(self, n_prompts, m):
        """Yield the batches of an epoch: positions of rows, by set for L_PG."""
        import torch

        if self.loss == "policy_gradient":
            size = min(SET_SIZE, m)
            first = m * torch.arange(n_prompts)[:, None, None]
            position = torch.randperm(m)[: m // size * size].reshape(-1, size)
            items, batch_size = (
                (first + position).reshape(-1, size),
                BATCH_SIZE // SET_SIZE,
            )
            items = items[torch.randperm(len(items))]
        else:
            items, batch_size = torch.randperm(n_prompts * m), BATCH_SIZE
        batch_size = min(batch_size, len(items))
        for start in range(0, len(items) - batch_size + 1, batch_size):
            yield items[start : start + batch_size]

    def _loss(self, scores, rewards):
        from torch.nn import functional

        if self.loss == "squared_error":
            return functional.mse_loss(scores, rewards)
        if self.loss == "log_loss":
            return functional.binary_cross_entropy_with_logits(scores, rewards)
        return -(functional.softmax(scores, dim=-1) * rewards).sum(dim=-1).mean()


def make_network(n_features, hidden_layer_sizes):
    """Make linear layers with ReLU between them and one output."""
    from torch import nn

    sizes = [n_features, *hidden_layer_sizes, 1]
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    between = [layer for linear in layers for layer in (linear, nn.ReLU())]
    return nn.Sequential(*between[:-1])


def import_torch():
    """Import torch, or raise an error that tells how to install it."""
    try:
        import torch
    except ImportError:
        raise ImportError(
            "PaperRecipe needs PyTorch: pip install torch, or "
            'pip install "skqprobe[transformers]", which contains it.'
        ) from None
    return torch
