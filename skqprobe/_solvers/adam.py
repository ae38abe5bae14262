"""Networks with hidden layers: Adam on minibatches of whole prompts, on torch."""

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skqprobe._arrays.magnitude import check_magnitude
from skqprobe._utils.warn import warn_user

LEARNING_RATE = 1e-3
"""Adam's usual one; features and scores are brought to a scale that it fits."""

BATCH_ROWS = 512
"""The most candidates a step takes, about: enough to keep BLAS busy."""

N_STEPS = 10
"""The fewest steps of an epoch, if there are as many prompts: with fewer, nothing but
noise happens between two looks at the held-out loss."""

LARGEST_REWARD = 1e15
"""For losses whose scores are not in units of the reward: Adam squares gradients, which
float32 can hold up to 1e38."""

PATIENCE = 20
"""How many epochs without progress end the training: the loss of a few held-out prompts
is noisy."""


def import_torch():
    """Import torch, or say how to get it.

    Raises
    ------
    ImportError
        If torch is not installed, or does not load.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Fitting a probe with hidden layers needs torch: pip install torch, or pip "
            'install "skqprobe[transformers]", which brings it. A linear probe, '
            f"hidden_layer_sizes=(), does not need it. (The error was: {error})"
        ) from error
    return torch


def minimize_adam(objective, theta, *, tol, max_iter, random_state, on_iteration=None):
    """Train a network with Adam, until held-out prompts show no more progress.

    A tenth of the prompts is held out, and the parameters with the least mean loss
    there are kept. Of fewer than ten prompts none is held out; the objective of them
    all takes the place of the held-out loss.

    The network works in standardised features and scores, see `Scaling`. There the
    penalty, ``alpha / 2`` times the squares of the weights, is part of the gradient.

    Parameters
    ----------
    objective : NetworkObjective
        What to minimise; has a prompt of weight above 0.
    theta : ndarray of shape (n_parameters,)
        Where to start. A network of zeros cannot learn: they stand for random weights
        in the hidden layers.
    tol : float
        An epoch makes progress if it gets below the least loss so far by more than
        `tol` times what that has gained since the start.
    max_iter : int
        The most epochs; if they do not suffice, there is a ConvergenceWarning.
    random_state : RandomState instance
        Determines the prompts held out, the weights at the start, and the batches.
    on_iteration : callable, default=None
        Called after each epoch with the best parameters so far and the epoch's
        held-out loss; returns True to stop.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        The best parameters found.
    n_iter : int
        Number of epochs, at least 1.
    """
    if objective.dtype == np.float32 and not hasattr(objective.loss, "least_squares"):
        check_magnitude(objective.rewards, "y", high=LARGEST_REWARD)
    train, held_out = objective.deal(random_state)
    network = Network(objective, theta, train, random_state)

    def watched_loss():
        if len(held_out):
            return network.mean_loss(held_out)
        return network.mean_loss(train) + network.penalty()

    # The start, where all scores are equal, is not kept even where its loss is least: a
    # network that predicts worse than a constant may still choose far better.
    start, least, n_stale = watched_loss(), np.inf, 0
    for n_iter in range(1, max_iter + 1):
        shuffled = random_state.permutation(train)
        batches = objective.batches(shuffled, BATCH_ROWS, N_STEPS)
        for prompts in batches:
            network.step(prompts, len(batches))
        value = watched_loss()
        n_stale = 0 if value < least - tol * max(start - least, 0) else n_stale + 1
        if value < least:
            theta, least = network.theta(), value
        stopped = on_iteration is not None and on_iteration(theta, value)
        if stopped or n_stale == PATIENCE:
            return theta, n_iter
    warn_user(
        f"The network did not converge: max_iter={max_iter} epochs were over while the "
        "held-out loss still made progress. Increase max_iter, or alpha, or tol.",
        ConvergenceWarning,
    )
    return theta, max_iter


class Network:
    """A network of torch tensors, its optimizer, and its bridge to the losses.

    torch computes scores and takes their gradient back; losses stay in numpy, so that
    every one, a user's own too, works on all devices.

    Parameters
    ----------
    objective : NetworkObjective
        The objective.
    theta : ndarray of shape (n_parameters,)
        Where to start; zeros for random weights.
    train : ndarray of int
        The prompts to train on.
    random_state : RandomState instance
        Determines the random weights.
    """

    def __init__(self, objective, theta, train, random_state):
        self.torch = import_torch()
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.objective = objective
        self.scaling = Scaling(objective, train)
        self.train_weight = objective.prompt_weight[train].sum()
        if theta.any():
            weights, biases = self.scaling.to_network(*objective.split(theta))
        else:
            weights, biases = _initial(objective.layer_shapes, random_state)
        self.weights = [self._tensor(weight).requires_grad_() for weight in weights]
        self.biases = [self._tensor(bias).requires_grad_() for bias in biases]
        self.biases[-1].requires_grad_(objective.has_intercept)
        self.mean = self._tensor(self.scaling.mean)
        self.gain = self._tensor(self.scaling.gain)
        free = [bias for bias in self.biases if bias.requires_grad]
        # For Adam, weight_decay adds the gradient of the penalty to that of the loss.
        self.optimizer = self.torch.optim.Adam(
            [
                {"params": self.weights, "weight_decay": objective.alpha},
                {"params": free},
            ],
            lr=LEARNING_RATE,
        )

    def _tensor(self, array):
        array = array.astype(self.objective.dtype)  # a copy: Adam writes in place
        return self.torch.from_numpy(array).to(self.device)

    def _output(self, X):
        """Run the network on rows; its output is a score in units of the scaling."""
        X = self.torch.from_numpy(X).to(self.device)
        values = (X - self.mean) * self.gain
        layers = list(zip(self.weights, self.biases, strict=True))
        for weight, bias in layers[:-1]:
            values = self.torch.relu(values @ weight + bias)
        weight, bias = layers[-1]
        return (values @ weight + bias)[:, 0]

    def step(self, prompts, n_batches):
        """Step down the gradient of a batch that is one of `n_batches`."""
        X, _, loss = self.objective.read(prompts)
        output = self._output(X)
        _, slope = loss(self._scores(output))
        # The batches add up to the whole: large prompts count no more than others.
        slope *= n_batches / self.train_weight / self.scaling.unit
        self.optimizer.zero_grad()
        output.backward(self.torch.from_numpy(slope).to(output))
        self.optimizer.step()

    def _scores(self, output):
        values = output.detach().cpu().numpy().astype(np.float64)
        return self.scaling.center + self.scaling.unit * values

    def mean_loss(self, prompts):
        """Mean loss of prompts, without the penalty."""
        total = 0.0
        with self.torch.no_grad():
            for batch in self.objective.batches(prompts, BATCH_ROWS):
                X, _, loss = self.objective.read(batch)
                total += loss(self._scores(self._output(X)))[0]
        return total / self.objective.prompt_weight[prompts].sum()

    def penalty(self):
        """Compute the penalty, in units of the loss."""
        squares = sum(float(weight.detach().square().sum()) for weight in self.weights)
        return self.objective.alpha / 2 * squares * self.scaling.unit**2

    def theta(self):
        """Parameters of the objective, for features and scores as they are."""
        weights, biases = (
            [part.detach().cpu().numpy().astype(np.float64) for part in parts]
            for parts in (self.weights, self.biases)
        )
        return self.objective.join(*self.scaling.from_network(weights, biases))


class Scaling:
    """A change of variables in which one learning rate fits all data.

    The network sees columns of mean 0 and variance 1, and gives scores around
    `center`, in units of their spread. The loss is taken in units of the spread's
    square, as that of least squares on standardised targets.

    Parameters
    ----------
    objective : NetworkObjective
        The objective.
    train : ndarray of int
        The prompts whose rows define mean and variance.
    """

    def __init__(self, objective, train):
        scaler = StandardScaler()
        for prompts in objective.batches(train, BATCH_ROWS):
            X, copies, _ = objective.read(prompts)
            scaler.partial_fit(X, sample_weight=copies)
        # By rounding, the variance of a constant column may fall below 0.
        self.mean, self.scale = scaler.mean_, np.sqrt(np.maximum(scaler.var_, 0))
        # What only rounding moves is constant, and not fed to the network.
        eps = np.finfo(objective.dtype).eps
        self.scale[self.scale <= 8 * eps * abs(self.mean)] = 0
        varies = self.scale > 0
        self.gain = np.divide(1, self.scale, where=varies, out=np.zeros(len(varies)))
        self.center, self.unit = objective.score_scale()

    def to_network(self, weights, biases):
        """Weights and biases of the network, from those for raw features."""
        first, last = weights[0] * self.scale[:, None], weights[-1] / self.unit
        biases = [
            biases[0] + self.mean @ weights[0],
            *biases[1:-1],
            (biases[-1] - self.center) / self.unit,
        ]
        return [first, *weights[1:-1], last], biases

    def from_network(self, weights, biases):
        """Weights and biases for raw features, from those of the network."""
        first, last = weights[0] * self.gain[:, None], weights[-1] * self.unit
        biases = [
            biases[0] - self.mean @ first,
            *biases[1:-1],
            biases[-1] * self.unit + self.center,
        ]
        return [first, *weights[1:-1], last], biases


def _initial(layer_shapes, random_state):
    """Random weights as suit ReLU, and zeros in the last layer.

    So scores start equal, and a loss at its value for no choice, as those of a linear
    probe do. Source: He et al., "Delving Deep into Rectifiers", arXiv 1502.01852.
    """
    weights = [
        random_state.standard_normal(shape) * np.sqrt(2 / shape[0])
        for shape in layer_shapes
    ]
    weights[-1] *= 0
    return weights, [np.zeros(fan_out) for _, fan_out in layer_shapes]
