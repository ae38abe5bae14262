"""Export of a linear probe as a sequence classifier of transformers."""

import copy
from pathlib import Path

from sklearn.base import clone

from skqprobe._backends.causal_lm import import_backend, load_causal_lm
from skqprobe.embedders import HiddenStateEmbedder
from skqprobe.io._export import _absorb_scaling, _split_pipeline


def to_sequence_classifier(policy_or_pipeline, model, path):
    """Export a linear probe as a reward model: a sequence classifier of transformers.

    The model is cut to the layer of the probe, and the coefficients become its head. So
    ``AutoModelForSequenceClassification.from_pretrained(path)`` returns the value of
    the probe for the tokens of a prompt and a completion. Libraries that load reward
    models in this form need no skqprobe. Read more in :doc:`/guide/persistence`.

    Parameters
    ----------
    policy_or_pipeline : QProbePolicy, QProbePolicyCV, QProbeRegressor or Pipeline
        Fitted linear probe on states of one layer at the last token, after the final
        normalization. Or fitted pipeline of a `HiddenStateEmbedder` (or none), any
        number of StandardScaler, alone or in `PerCandidate`, and such a probe.
    model : HiddenStateEmbedder, str or Path
        Embedder that makes the features. Or the folder or name of its model; the other
        settings are then those of the embedder in the pipeline or, if there is none,
        the defaults.
    path : str or Path
        Folder to write. It receives the model, in the data type in which the embedder
        computes, and its tokenizer.

    Raises
    ------
    ImportError
        If torch or transformers is not installed.
    NotFittedError
        If the probe is not fitted.
    TypeError
        If a step of the pipeline, such as `SiblingFeatures`, cannot be exported, or
        `model` has another type.
    ValueError
        If the probe has hidden layers or several objectives; if its features are not
        the states of one layer at the last token, after the final normalization; or if
        transformers has no such classifier for this model.

    See Also
    --------
    to_json : Export a probe alone.

    Notes
    -----
    The head of these classifiers has no intercept. That of the probe, which includes
    the means of scalers, is ``config.probe_intercept`` of the saved model. It has no
    effect on a choice: the value of the probe is the score plus this constant. The
    temperature of the probe is ``config.probe_temperature``. Of
    ``QProbeRegressor("log_loss")``, the expected reward is the sigmoid of the value.

    The classifier reads tokens. The embedder tokenizes prompt and completion separately
    and leaves out the end-of-text token, so the score of a joint text may differ where
    tokens cross the border or where it ends with this token.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skqprobe import QProbePolicy
    >>> from skqprobe.embedders import HiddenStateEmbedder
    >>> from skqprobe.io import to_sequence_classifier
    >>> embedder = HiddenStateEmbedder(
    ...     "HuggingFaceTB/SmolLM2-135M-Instruct", layer=18, final_norm=True
    ... )
    >>> policy = make_pipeline(embedder, QProbePolicy(standardize=True))
    >>> records = [{"prompt": "1 + 1 =", "completions": [" 2", " 3"]}]
    >>> _ = policy.fit(records, [[1, 0]])  # doctest: +SKIP
    >>> to_sequence_classifier(policy, embedder, "reward_model")  # doctest: +SKIP
    """
    probe, scalers, first = _split_pipeline(policy_or_pipeline)
    embedder = _find_embedder(first, model)
    coef, intercept = _absorb_scaling(scalers, probe)
    if coef.ndim == 2:
        raise ValueError(
            f"probe has {len(coef)} objectives, but a reward model has one score. Fit "
            "a probe for one of them, or for their weighted sum."
        )
    lm = load_causal_lm(embedder)
    layer = _check_layer(embedder, lm)
    classifier = _make_classifier(lm, layer)
    head = classifier.score.weight
    if head.shape != (1, len(coef)):
        raise ValueError(
            f"probe has {len(coef)} coefficients, but the states of {embedder.model} "
            f"have {head.shape[1]} features. Pass the embedder that made the features."
        )
    torch = import_backend("torch")
    with torch.no_grad():
        head.copy_(torch.as_tensor(coef[None]))
    classifier.config.probe_intercept = float(intercept)
    classifier.config.probe_temperature = float(probe.temperature)
    tokenizer = _with_padding(lm, classifier.config)
    classifier.save_pretrained(path)
    tokenizer.save_pretrained(path)


def _find_embedder(first, model):
    """Return the embedder of the features, with the given model."""
    if isinstance(model, HiddenStateEmbedder):
        return model
    if not isinstance(model, (str, Path)):
        raise TypeError(
            "model must be a HiddenStateEmbedder, or the folder or name of a model; "
            f"got {model!r}."
        )
    if first is None:
        return HiddenStateEmbedder(model)
    if not isinstance(first, HiddenStateEmbedder):
        raise TypeError(
            f"The pipeline begins with {type(first).__name__}, but only a probe on the "
            "states of HiddenStateEmbedder can be exported as a sequence classifier."
        )
    return clone(first).set_params(model=model)


def _check_layer(embedder, lm):
    """Return the number of the layer whose states the classifier has at its end."""
    numbers = lm.layer_numbers(embedder.layer, "layer")
    last = lm.layer_numbers(-1, "layer")[0]
    for name, value, possible, remedy in (
        ("layer", embedder.layer, len(numbers) == 1 and numbers[0] > 0, "one above 0"),
        ("pooling", embedder.pooling, embedder._poolings() == ["last"], '"last"'),
        ("likelihood", embedder.likelihood, not embedder.likelihood, "False"),
        ("final_norm", False, embedder.final_norm or numbers == [last], "True"),
    ):
        if not possible:
            raise ValueError(
                f"HiddenStateEmbedder({name}={value!r}) cannot be exported: a sequence "
                "classifier reads the normalized state of one layer at the last token. "
                f"Set {name} to {remedy}, and fit again."
            )
    return numbers[0]


def _make_classifier(lm, layer):
    """Make a classifier with the first layers of a model and its normalization."""
    torch, transformers = map(import_backend, ("torch", "transformers"))
    config = copy.deepcopy(lm.network.config)
    name = type(config).__name__
    config.num_labels, config.num_hidden_layers = 1, layer
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layer]
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and replaced below
            classifier = transformers.AutoModelForSequenceClassification.from_config(
                config, dtype=lm.network.dtype
            )
    except ValueError as error:
        raise ValueError(
            f"transformers has no sequence classifier for {name}: {error}"
        ) from error
    weights = lm.network.base_model.state_dict()
    missing, _ = classifier.base_model.load_state_dict(weights, strict=False)
    # The weights of the head must be the only ones besides those of the model.
    n_own = len(classifier.state_dict()) - len(classifier.base_model.state_dict())
    if missing or n_own != 1 or not hasattr(classifier, "score"):
        raise ValueError(
            f"{type(classifier).__name__} is not a {type(lm.network).__name__} with a "
            "linear head, so a probe cannot be exported in its form."
        )
    return classifier


def _with_padding(lm, config):
    """Return a tokenizer with a padding token, which must not end a text."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    known = tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id
    possible = [i for i in known if i is not None and i not in lm.end_ids]
    if possible:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(possible[0])
    config.pad_token_id = tokenizer.pad_token_id
    return tokenizer
