"""to_sequence_classifier, with tiny models and SmolLM2-135M."""

import shutil

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._backends.causal_lm import load_causal_lm
from skqprobe.datasets import load_two_words
from skqprobe.embedders import HiddenStateEmbedder, TextStatistics
from skqprobe.io import to_sequence_classifier
from skqprobe.preprocessing import PerCandidate, SiblingFeatures

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("kept_models")

RECORDS = [
    {"prompt": "ab", "completions": ["c", "defg", ""]},
    {"prompt": "xyz", "completions": ["zy", "x", "yyyyy"]},
    {"prompt": "", "completions": ["a", "bbb", "cd"]},
]
Y = [[1, 0, 0], [0, 1, 0], [0, 0.5, 1]]


def scores_of(folder, embedder, records):
    """Return the scores of a saved classifier for padded batches, and its config."""
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lm = load_causal_lm(embedder)
    scores = []
    for record in records:
        pairs = [(record["prompt"], text) for text in record["completions"]]
        ids = [before + after for before, after in lm.encode_pairs(pairs)]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        with torch.inference_mode():
            scores.append(classifier(**batch).logits[:, 0].numpy())
    return np.array(scores), classifier.config


def with_network(tiny, folder, Model, Config, **settings):
    """Write a random model of another class, with the tokenizer of the tiny one."""
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    sizes = {"vocab_size": 57, "hidden_size": 16, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "initializer_range": 0.5, "bos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Model(Config(**sizes, eos_token_id=2, **settings)).save_pretrained(folder)
    return folder


def llama(tiny, folder):
    return tiny


def qwen(tiny, folder):
    """A model whose config lists the type of each layer."""
    sizes = {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}
    Model, Config = transformers.Qwen3ForCausalLM, transformers.Qwen3Config
    return with_network(tiny, folder, Model, Config, **sizes)


def gpt2(tiny, folder):
    """A model whose config and modules have other names, and a norm with a bias."""
    Model, Config = transformers.GPT2LMHeadModel, transformers.GPT2Config
    return with_network(tiny, folder, Model, Config)


@pytest.mark.parametrize("layer", [1, 2, -1])
@pytest.mark.parametrize("make", [llama, qwen, gpt2])
def test_the_score_is_the_value(tiny, tmp_path, make, layer):
    embedder = HiddenStateEmbedder(
        make(tiny, tmp_path / "model"), layer=layer, final_norm=layer > 0
    )
    scaler = PerCandidate(StandardScaler())
    pipeline = make_pipeline(embedder, scaler, QProbePolicy("squared_error"))
    pipeline.fit(RECORDS, Y)
    state = torch.random.get_rng_state()
    to_sequence_classifier(pipeline, embedder, tmp_path / "out")
    assert torch.equal(torch.random.get_rng_state(), state)
    scores, config = scores_of(tmp_path / "out", embedder, RECORDS)
    assert config.num_labels == 1
    n_layers = load_causal_lm(embedder).network.config.num_hidden_layers
    assert config.num_hidden_layers == layer % (n_layers + 1)
    assert abs(config.probe_intercept) > 1e-3
    expected = pipeline.decision_function(RECORDS)
    np.testing.assert_allclose(scores + config.probe_intercept, expected, atol=1e-4)
    assert np.ptp(scores) > 0.1


@pytest.mark.parametrize("layer", [18, -1])
def test_smollm(smollm, tmp_path, layer):
    data = load_two_words()
    records = [
        {"prompt": str(prompt), "completions": texts[:4].tolist()}
        for prompt, texts in zip(data.prompts[:12], data.completions[:12], strict=True)
    ]
    embedder = HiddenStateEmbedder(**smollm, layer=layer, final_norm=True)
    scaler = PerCandidate(StandardScaler(with_mean=False))
    probe = QProbePolicy("squared_error", fit_intercept=False, temperature=0.5)
    pipeline = make_pipeline(embedder, scaler, probe)
    pipeline.fit(records, data.target[:12, :4])
    # The name of the model is enough: the other settings are those of the pipeline.
    to_sequence_classifier(pipeline, str(smollm["model"]), tmp_path)
    scores, config = scores_of(tmp_path, embedder, records)
    assert config.probe_intercept == 0
    assert config.probe_temperature == 0.5
    expected = pipeline.decision_function(records)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.ptp(expected) > 0.5


def test_a_probe_on_arrays(tiny, tmp_path):
    """The last layer is the default of the embedder, so a name is enough."""
    embedder = HiddenStateEmbedder(tiny)
    X = embedder.fit_transform(RECORDS)
    probe = QProbeRegressor("log_loss").fit(X, Y)
    to_sequence_classifier(probe, str(tiny), tmp_path)
    scores, config = scores_of(tmp_path, embedder, RECORDS)
    expected = 1 / (1 + np.exp(-scores - config.probe_intercept))
    np.testing.assert_allclose(probe.predict(X), expected, atol=1e-5)
    probe = QProbePolicy("squared_error").fit(X[..., :9], Y)
    with pytest.raises(ValueError, match=r"9 coefficients, but .* have 16 features"):
        to_sequence_classifier(probe, embedder, tmp_path)


def test_the_padding_token_does_not_end_a_text(tiny, tmp_path):
    """Here it would be </s>, with which a text may end."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    embedder = HiddenStateEmbedder(folder)
    pipeline = make_pipeline(embedder, QProbePolicy("squared_error")).fit(RECORDS, Y)
    to_sequence_classifier(pipeline, embedder, tmp_path / "out")
    ends = [{"prompt": "a", "completions": ["b</s>", "c", "a</s>"]}]
    scores, config = scores_of(tmp_path / "out", embedder, ends)
    assert config.pad_token_id == 0
    assert load_causal_lm(embedder).tokenizer.pad_token_id == 2
    expected = pipeline.decision_function(ends)
    np.testing.assert_allclose(scores + config.probe_intercept, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"layer": [1, 2]}, r"layer=\[1, 2\]"),
        ({"layer": 0}, "layer=0"),
        ({"pooling": "mean"}, "pooling='mean'"),
        ({"pooling": ["last", "max"]}, r"pooling=\['last', 'max'\]"),
        ({"likelihood": True}, "likelihood=True"),
        ({"layer": 1, "final_norm": False}, "final_norm=False"),
    ],
)
def test_states_that_no_classifier_reads(tiny, tmp_path, settings, named):
    settings = {"layer": 1, "final_norm": True} | settings
    embedder = HiddenStateEmbedder(tiny, **settings)
    pipeline = make_pipeline(embedder, QProbePolicy("squared_error")).fit(RECORDS, Y)
    message = rf"HiddenStateEmbedder\({named}\) cannot be exported"
    with pytest.raises(ValueError, match=message):
        to_sequence_classifier(pipeline, embedder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_probes_that_are_not_linear(tiny, tmp_path):
    embedder = HiddenStateEmbedder(tiny)
    X = embedder.fit_transform(RECORDS)
    siblings = make_pipeline(embedder, SiblingFeatures(), QProbePolicy("squared_error"))
    with pytest.raises(TypeError, match=r"got SiblingFeatures\(\)"):
        to_sequence_classifier(siblings.fit(RECORDS, Y), embedder, tmp_path)
    network = QProbePolicy(hidden_layer_sizes=(3,))
    network.coefs_ = []  # fitted
    with pytest.raises(ValueError, match="probe has hidden layers"):
        to_sequence_classifier(network, embedder, tmp_path)
    both = QProbePolicy("squared_error", objective_weights=[1, 2])
    both.fit(X, np.stack([Y, Y], axis=-1))
    with pytest.raises(ValueError, match="probe has 2 objectives"):
        to_sequence_classifier(both, embedder, tmp_path)
    texts = make_pipeline(TextStatistics(), QProbePolicy("squared_error"))
    with pytest.raises(TypeError, match="begins with TextStatistics"):
        to_sequence_classifier(texts.fit(RECORDS, Y), tiny, tmp_path)
    probe = QProbePolicy("squared_error").fit(X, Y)
    with pytest.raises(TypeError, match=r"model must be .* got TextStatistics"):
        to_sequence_classifier(probe, TextStatistics(), tmp_path)


def test_a_model_without_a_classifier(tiny, tmp_path, monkeypatch):
    embedder = HiddenStateEmbedder(tiny)
    probe = make_pipeline(embedder, QProbePolicy("squared_error")).fit(RECORDS, Y)
    Classifier = transformers.LlamaForSequenceClassification

    class Deeper(Classifier):
        def __init__(self, config):
            super().__init__(config)
            self.dense = torch.nn.Linear(16, 16)

    known = transformers.AutoModelForSequenceClassification._model_mapping
    monkeypatch.setitem(known._extra_content, transformers.LlamaConfig, Deeper)
    with pytest.raises(ValueError, match="Deeper is not a LlamaForCausalLM with a lin"):
        to_sequence_classifier(probe, embedder, tmp_path)

    def refuse(config, **settings):
        raise ValueError("Unrecognized configuration class")

    Auto = transformers.AutoModelForSequenceClassification
    monkeypatch.setattr(Auto, "from_config", refuse)
    with pytest.raises(ValueError, match="has no sequence classifier for LlamaConfig"):
        to_sequence_classifier(probe, embedder, tmp_path)
