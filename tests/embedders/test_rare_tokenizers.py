"""Tokenizers that end every text, or have no special tokens."""

import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from skqprobe.embedders import HiddenStateEmbedder, LikelihoodEmbedder  # noqa: E402
from skqprobe.embedders._inputs import check_texts  # noqa: E402

pytestmark = pytest.mark.usefixtures("kept_models")


def with_tokenizer(tiny, folder, template, **special):
    """Copy the tiny model, with a tokenizer that adds other special tokens."""
    shutil.copytree(tiny, folder)
    (folder / "tokenizer_config.json").unlink()
    backend = tokenizers.Tokenizer.from_file(str(tiny / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", **special
    ).save_pretrained(folder)
    return folder


def test_an_end_token_of_the_tokenizer_does_not_end_a_prompt(tiny, tmp_path):
    ends = with_tokenizer(
        tiny, tmp_path / "ends", "<s> $A </s>", bos_token="<s>", eos_token="</s>"
    )
    pairs = [("ab", "c"), ("a", "bcd")]
    features = [LikelihoodEmbedder(folder).transform(pairs) for folder in (tiny, ends)]
    np.testing.assert_allclose(features[0], features[1], rtol=1e-5)


def test_an_empty_text_needs_a_token_to_begin_with(tiny, tmp_path):
    bare = with_tokenizer(tiny, tmp_path / "bare", "$A")
    with pytest.raises(ValueError, match="no token to begin one with"):
        HiddenStateEmbedder(bare).transform([("", "")])


def test_embed_batch_agrees_with_transform(tiny):
    embedder = HiddenStateEmbedder(tiny)
    pairs = [("ab", "c"), ("a", "bcd")]
    by_hand = embedder.embed_batch(embedder.make_texts(check_texts(pairs)))
    np.testing.assert_allclose(by_hand, embedder.transform(pairs), rtol=1e-5)
