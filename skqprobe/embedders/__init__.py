"""Embedders: from prompts and completions to arrays of features."""

from skqprobe._utils.public import set_module
from skqprobe.embedders._base import BaseEmbedder
from skqprobe.embedders._cache import EmbeddingCache
from skqprobe.embedders._hidden_state import HiddenStateEmbedder
from skqprobe.embedders._inputs import flatten_records
from skqprobe.embedders._likelihood import LikelihoodEmbedder
from skqprobe.embedders._openai import OpenAIEmbedder
from skqprobe.embedders._prefixes import expand_prefixes
from skqprobe.embedders._sentence_transformer import SentenceTransformerEmbedder
from skqprobe.embedders._statistics import TextStatistics
from skqprobe.embedders._union import EmbedderUnion
from skqprobe.embedders._vectorizer import VectorizerEmbedder

__all__ = [
    "BaseEmbedder",
    "EmbedderUnion",
    "EmbeddingCache",
    "HiddenStateEmbedder",
    "LikelihoodEmbedder",
    "OpenAIEmbedder",
    "SentenceTransformerEmbedder",
    "TextStatistics",
    "VectorizerEmbedder",
    "expand_prefixes",
    "flatten_records",
]

set_module(globals())
