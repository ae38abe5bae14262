"""Guidance: the states of a layer moved along the gradient of a probe."""

from contextlib import contextmanager
from hashlib import blake2b
from numbers import Integral, Real

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skqprobe._arrays.device import to_host
from skqprobe._backends.causal_lm import import_backend


class Guidance:
    """Move the states of a layer along the gradient of a linear probe while sampling.

    The value of a probe, Q, grows fastest in the direction of its coefficients. While
    the model writes, a multiple of this direction is added to the state of the layer at
    each position that the next token is drawn from, as in inference-time intervention
    [1]_. To move a sampler along the gradient of Q is also the idea of Q-score matching
    [2]_. The completions are not samples from the policy of the probe. Read more in
    :doc:`/guide/prefixes`.

    Parameters
    ----------
    policy : estimator
        Fitted linear probe, such as a `QProbePolicy`, or fitted pipeline of
        `StandardScaler` or ``PerCandidate(StandardScaler())`` and a linear probe. It is
        fitted to the states of the layer, best to those of prefixes:
        :func:`~skqprobe.embedders.expand_prefixes` makes the rows.
    layer : int
        Layer whose states are moved, counted like `layer` of
        :class:`~skqprobe.embedders.HiddenStateEmbedder`: at least 1, and not the last.
    strength : float
        Length of the move, in units of the spread of the layer: it raises the value by
        `strength` times the norm of the coefficients, as a step of `strength` standard
        deviations does along them. 0 moves nothing, and a negative number lowers the
        value.

    Attributes
    ----------
    shift : ndarray of shape (n_features,)
        Vector that is added to the states.

    See Also
    --------
    TransformersGenerator : Samples with a `guidance`.

    References
    ----------
    .. [1] Li, Patel, Viegas, Pfister, Wattenberg, "Inference-time intervention:
       eliciting truthful answers from a language model", NeurIPS 2023,
       arXiv 2306.03341.
    .. [2] Psenka, Escontrela, Abbeel, Ma, "Learning a diffusion model policy from
       rewards via Q-score matching", ICML 2024, arXiv 2312.11752.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.generators import Guidance
    >>> X = [[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]]  # states of a layer
    >>> policy = make_pipeline(StandardScaler(), QProbePolicy("pairwise_logistic"))
    >>> policy = policy.fit(X, [0, 1, 0, 1], qprobepolicy__groups=[0, 0, 1, 1])
    >>> Guidance(policy, layer=1, strength=3).shift.round(3)
    array([6., 0.], dtype=float32)
    """

    def __init__(self, policy, layer, strength):
        if not isinstance(layer, Integral) or isinstance(layer, bool):
            raise ValueError(f"layer must be an integer; got {layer!r}.")
        if not isinstance(strength, Real) or not np.isfinite(strength):
            raise ValueError(f"strength must be a finite number; got {strength!r}.")
        self.layer = int(layer)
        self.strength = float(strength)
        self.shift = (self.strength * _unit(policy)).astype(np.float32)

    def __repr__(self):
        digest = blake2b(self.shift.tobytes(), digest_size=8).hexdigest()
        return (
            f"Guidance(layer={self.layer}, strength={self.strength}, shift='{digest}')"
        )

    def check(self, lm):
        """Return the number of the layer in a model, or raise if it does not fit."""
        config = lm.network.config.get_text_config()
        [layer] = lm.layer_numbers(self.layer, "layer")
        if not 0 < layer < config.num_hidden_layers:
            raise ValueError(
                f"layer={self.layer} of guidance must be one of 1 to "
                f"{config.num_hidden_layers - 1}: neither the token embeddings nor the "
                "last layer."
            )
        if config.hidden_size != len(self.shift):
            raise ValueError(
                f"The policy of guidance has {len(self.shift)} features, but a state "
                f"of the model {config.hidden_size}. Fit it to the states of one layer "
                "at the last token."
            )
        return layer

    @contextmanager
    def move(self, lm):
        """Add the shift to the state of the layer at the last position of each text."""
        torch, layer = import_backend("torch"), self.check(lm)
        n_layers = lm.network.config.get_text_config().num_hidden_layers
        layers = next(
            module
            for module in lm.network.base_model.modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers
        )

        def add(module, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            # In place: the captured states of the layer are those that are moved.
            states[:, -1] += torch.tensor(self.shift).to(states)

        with layers[layer - 1].register_forward_hook(add):
            yield


def _unit(policy):
    """Return the shift of strength 1.

    With the coefficients w of standardized features and the gradient g of the value
    with respect to the states, it is g |w| / |g|^2, which raises the value by |w|.
    """
    steps = [s for _, s in policy.steps] if isinstance(policy, Pipeline) else [policy]
    *before, probe = [step for step in steps if step not in (None, "passthrough")]
    for step in (*before, probe):
        check_is_fitted(step)
    scalers = [getattr(step, "transformer_", step) for step in before]
    coef = np.squeeze(to_host(getattr(probe, "coef_", 0.0), "coef_")).astype(np.float64)
    if coef.ndim != 1 or not all(hasattr(scaler, "scale_") for scaler in scalers):
        raise TypeError(
            "policy must be a linear probe of one reward, or a pipeline of "
            "StandardScaler, or PerCandidate(StandardScaler()), and such a probe; got "
            f"{policy!r}. For a search, pass its best_estimator_."
        )
    gradient = coef
    for scaler in reversed(scalers):
        gradient = gradient / (1.0 if scaler.scale_ is None else scaler.scale_)
    length = np.linalg.norm(gradient)
    if length == 0:
        raise ValueError("All coefficients of policy are 0, so it has no direction.")
    return gradient * np.linalg.norm(coef) / length**2
