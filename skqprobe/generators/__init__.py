"""Generators: candidates from a live language model, and a choice among them."""

from skqprobe._backends.refusal import PromptRefused
from skqprobe._candidates.stopping import ExpectedGain, RejectionSampling, Threshold
from skqprobe._utils.public import set_module
from skqprobe.generators._base import BaseGenerator
from skqprobe.generators._best_of_k import BestOfK, stack_embeddings
from skqprobe.generators._blockwise import BlockwiseBestOfK
from skqprobe.generators._collect import collect
from skqprobe.generators._load import load_records
from skqprobe.generators._openai import OpenAIGenerator
from skqprobe.generators._select import select_candidates
from skqprobe.generators._transformers import TransformersGenerator

__all__ = [
    "BaseGenerator",
    "BestOfK",
    "BlockwiseBestOfK",
    "ExpectedGain",
    "OpenAIGenerator",
    "PromptRefused",
    "RejectionSampling",
    "Threshold",
    "TransformersGenerator",
    "collect",
    "load_records",
    "select_candidates",
    "stack_embeddings",
]

set_module(globals())
