"""Adam for networks with hidden layers, on minibatches of whole prompts, with torch."""

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skqprobe._arrays.magnitude import check_magnitude
from skqprobe._utils.optional import import_optional
from skqprobe._utils.warn import warn_user

LEARNING_RATE = 1e-3
"""Learning rate of Adam, its usual one. Features and scores are scaled to suit it."""

BATCH_ROWS = 512
"""Approximate maximum number of candidates in a step: enough to keep BLAS busy."""

N_STEPS = 10
"""Minimum number of steps in an epoch, if there are as many prompts. With fewer, the
held-out loss changes by little more than noise from one epoch to the next."""

LARGEST_REWARD = 1e15
"""Maximum reward for losses whose scores are not in units of the reward. Adam squares
gradients, and the largest float32 is near 1e38."""

PATIENCE = 20
"""Number of consecutive epochs without progress after which training stops. It is large
because the loss of a few held-out prompts is noisy."""


def import_torch():
    """Import torch.

    Returns
    -------
    torch : module

    Raises
    ------
    ImportError
        If torch is not installed or cannot be loaded.
    """
    probe = "Unlike a linear probe, one with hidden layers"
    return import_optional("torch", needed_by=probe, extra="transformers")


def minimize_adam(objective, theta, *, tol, max_iter, random_state, on_iteration=None):
    """Train a network with Adam [1]_ until the held-out loss makes no progress.

    A tenth of the prompts is held out, and the parameters with the least mean loss on
    them are kept. If there are fewer than ten prompts, none is held out, and the
    objective of all prompts replaces the held-out loss.

    The network uses standardized features and scores, see `Scaling`. The penalty,
    ``alpha / 2`` times the squares of its weights, is part of the gradient.

    Parameters
    ----------
    objective : NetworkObjective
        Objective to minimize, with at least one prompt of positive weight.
    theta : ndarray of shape (n_parameters,)
        Starting point. Zeros, with which a network cannot learn, are replaced by random
        weights in the hidden layers.
    tol : float
        Tolerance, above 0. An epoch makes progress if its loss is below the least
        earlier loss by more than `tol` times the gain of that loss since the start.
    max_iter : int
        Maximum number of epochs, at least 1.
    random_state : RandomState instance
        Generator of the held-out prompts, the initial weights and the batches.
    on_iteration : callable, default=None
        Function called after each epoch with the best parameters so far and the
        held-out loss of the epoch. It returns True to stop.

    Returns
    -------
    theta : ndarray of shape (n_parameters,)
        Parameters with the least held-out loss.
    n_iter : int
        Number of epochs, at least 1.

    Raises
    ------
    ValueError
        If a reward is too large for Adam in float32.
    ImportError
        If torch is not installed or cannot be loaded.

    Warns
    -----
    ConvergenceWarning
        If the held-out loss still makes progress after `max_iter` epochs.

    References
    ----------
    .. [1] Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv
       1412.6980.
    """
    if objective.dtype == np.float32 and not hasattr(objective.loss, "least_squares"):
        for each in objective.objectives:
            check_magnitude(each.rewards, "y", high=LARGEST_REWARD)
    train, held_out = objective.hold_out(random_state)
    network = Network(objective, theta, train, random_state)

    def validation_loss():
        if len(held_out):
            return network.mean_loss(held_out)
        return network.mean_loss(train) + network.penalty()

    # The starting point, where all scores are equal, is never kept, even if its loss is
    # least: a network that predicts worse than a constant may still choose far better.
    start, least, n_stale = validation_loss(), np.inf, 0
    for n_iter in range(1, max_iter + 1):
        shuffled = random_state.permutation(train)
        batches = objective.batches(shuffled, BATCH_ROWS, N_STEPS)
        for prompts in batches:
            network.step(prompts, len(batches))
        value = validation_loss()
        n_stale = 0 if value < least - tol * max(start - least, 0) else n_stale + 1
        if value < least:
            theta, least = network.theta(), value
        stopped = on_iteration is not None and on_iteration(theta, value)
        if stopped or n_stale == PATIENCE:
            return theta, n_iter
    warn_user(
        f"The network did not converge: after max_iter={max_iter} epochs, the held-out "
        "loss still makes progress. Increase max_iter, or alpha, or tol.",
        ConvergenceWarning,
    )
    return theta, max_iter


class Network:
    """Network of torch tensors with its optimizer.

    torch computes the scores, and propagates their gradient back. Losses remain in
    numpy, so that every loss, including those of users, works on all devices.

    Parameters
    ----------
    objective : NetworkObjective
        Objective.
    theta : ndarray of shape (n_parameters,)
        Starting point. Zeros are replaced by random weights.
    train : ndarray of int
        Indices of the training prompts.
    random_state : RandomState instance
        Generator of the random weights.
    """

    def __init__(self, objective, theta, train, random_state):
        self.torch = import_torch()
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.objective = objective
        self.scaling = Scaling(objective, train)
        self.train_weight = _weight_of(train, objective)
        if theta.any():
            weights, biases = self.scaling.to_network(*objective.split(theta))
        else:
            weights, biases = _initial(objective.layer_shapes, random_state)
        self.weights = [self._tensor(weight).requires_grad_() for weight in weights]
        self.biases = [self._tensor(bias).requires_grad_() for bias in biases]
        self.biases[-1].requires_grad_(objective.has_intercept)
        self.mean = self._tensor(self.scaling.mean)
        self.gain = self._tensor(self.scaling.gain)
        # In Adam, weight_decay adds the gradient of the penalty to that of the loss.
        penalized = {"params": self.weights, "weight_decay": objective.alpha}
        parameters = [penalized, {"params": self.biases}]
        self.optimizer = self.torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def _tensor(self, array):
        array = array.astype(self.objective.dtype)  # a copy, since Adam writes in place
        return self.torch.from_numpy(array).to(self.device)

    def _output(self, X):
        """Compute the outputs of the network: scores in units of `Scaling`, (n, m)."""
        X = self.torch.from_numpy(X).to(self.device)
        hidden = (X - self.mean) * self.gain
        layers = list(zip(self.weights, self.biases, strict=True))
        for weight, bias in layers[:-1]:
            hidden = self.torch.relu(hidden @ weight + bias)
        weight, bias = layers[-1]
        return hidden @ weight + bias

    def step(self, prompts, n_batches):
        """Take a step of Adam for a batch of prompts, one of `n_batches`."""
        X, _, loss = self.objective.read(prompts)
        output = self._output(X)
        _, slope = loss(self._scores(output))
        # The gradients of all batches average to that of the mean loss over prompts.
        slope *= n_batches / self.train_weight / self.scaling.unit
        self.optimizer.zero_grad()
        output.backward(self.torch.from_numpy(slope).to(output))
        self.optimizer.step()

    def _scores(self, output):
        return self.scaling.center + self.scaling.unit * _to_numpy(output)

    def mean_loss(self, prompts):
        """Compute the mean loss of prompts, without the penalty.

        Those of further outputs are converted to the unit of the first, and added.
        """
        total = 0.0
        with self.torch.no_grad():
            for batch in self.objective.batches(prompts, BATCH_ROWS):
                X, _, loss = self.objective.read(batch)
                total += loss(self._scores(self._output(X)))[0]
        means = total / _weight_of(prompts, self.objective)
        return float(means @ (self.scaling.unit[0] / self.scaling.unit) ** 2)

    def penalty(self):
        """Compute the penalty, in units of the loss."""
        squares = sum(float(weight.detach().square().sum()) for weight in self.weights)
        return self.objective.alpha / 2 * squares * self.scaling.unit[0] ** 2

    def theta(self):
        """Compute the parameters of the objective, for unscaled features and scores."""
        weights, biases = map(_to_numpy, self.weights), map(_to_numpy, self.biases)
        return self.objective.join(*self.scaling.from_network(weights, biases))


class Scaling:
    """Change of variables with which one learning rate suits all data.

    The inputs of the network are columns of mean 0 and variance 1. Its outputs are the
    differences of scores from `center`, in units of the spread of the scores, `unit`.
    The losses are in units of the squared spread, as in least squares on standardized
    targets.

    Parameters
    ----------
    objective : NetworkObjective
        Objective.
    train : ndarray of int
        Indices of the prompts whose rows define mean and variance.
    """

    def __init__(self, objective, train):
        scaler = StandardScaler()
        for prompts in objective.batches(train, BATCH_ROWS):
            X, copies, _ = objective.read(prompts)
            scaler.partial_fit(X, sample_weight=copies)
        # Rounding may make the variance of a constant column negative.
        self.mean, self.scale = scaler.mean_, np.sqrt(np.maximum(scaler.var_, 0))
        # A column that varies only by rounding is constant, and no input.
        eps = np.finfo(objective.dtype).eps
        self.scale[self.scale <= 8 * eps * abs(self.mean)] = 0
        varies = self.scale > 0
        self.gain = np.divide(1, self.scale, where=varies, out=np.zeros(len(varies)))
        self.center, self.unit = objective.score_scale()

    def to_network(self, weights, biases):
        """Convert weights and biases for unscaled data to those of the network."""
        weights, biases = list(weights), list(biases)
        biases[0] = biases[0] + self.mean @ weights[0]
        weights[0] = weights[0] * self.scale[:, None]
        weights[-1] = weights[-1] / self.unit
        biases[-1] = (biases[-1] - self.center) / self.unit
        return weights, biases

    def from_network(self, weights, biases):
        """Convert weights and biases of the network to those for unscaled data."""
        weights, biases = list(weights), list(biases)
        weights[0] = weights[0] * self.gain[:, None]
        biases[0] = biases[0] - self.mean @ weights[0]
        weights[-1] = weights[-1] * self.unit
        biases[-1] = biases[-1] * self.unit + self.center
        return weights, biases


def _weight_of(prompts, objective):
    """Sum the weights of prompts for each output; 1 in place of 0."""
    sums = [each.prompt_weight[prompts].sum() for each in objective.objectives]
    return np.array([total or 1 for total in sums])


def _to_numpy(tensor):
    """Convert a tensor to a numpy array of float64."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def _initial(layer_shapes, random_state):
    """Draw random weights for ReLU, with zeros in the last layer and in the biases.

    All scores are then equal, as they are at the start of a linear probe. Source: He et
    al., "Delving Deep into Rectifiers", arXiv 1502.01852.
    """
    weights = [
        random_state.standard_normal(shape) * np.sqrt(2 / shape[0])
        for shape in layer_shapes
    ]
    weights[-1] *= 0
    return weights, [np.zeros(fan_out) for _, fan_out in layer_shapes]
