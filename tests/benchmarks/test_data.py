"""Data sets are loaded, checked and cut as their files say."""

import numpy as np
import pytest


def test_two_words(data):
    whole, part = data.load("two_words"), data.load("two_words", max_prompts=7)
    assert whole.X.shape == (240, 16, 576) and whole.view_sizes == (576,)
    np.testing.assert_array_equal(part.X, whole.X[:7])
    np.testing.assert_array_equal(part.lengths, whole.lengths[:7])
    sizes = {"n_prompts": 7, "n_groups": 7, "n_candidates": 16, "n_features": 576}
    assert part.shape() == {"name": "two_words", **sizes}


def test_file(data, make_npz, tmp_path):
    groups = np.repeat(np.arange(20), 2)
    lengths = np.arange(240).reshape(40, 6)
    more = {"groups": groups, "models": list("abcdef"), "ntok": lengths}
    X, y = make_npz(tmp_path / "A.npz", m=6, more=more | {"n_chars": lengths[0]})
    found = data.load_file(tmp_path / "A.npz", ["embeddings"])
    assert found.name == "A" and found.X.dtype == np.float32
    np.testing.assert_array_equal(found.X, X)
    np.testing.assert_array_equal(found.y, y)
    np.testing.assert_array_equal(found.groups, groups)
    np.testing.assert_array_equal(found.lengths, lengths)  # n_chars has another shape
    assert found.models.shape == y.shape and "".join(found.models[3]) == "abcdef"
    part = data.load_file(tmp_path / "A.npz", ["embeddings"], max_prompts=10)
    rows = [np.flatnonzero((prompt == X).all(axis=(1, 2)))[0] for prompt in part.X]
    assert len(rows) == 10 and rows == sorted(rows) and rows != list(range(10))
    np.testing.assert_array_equal(part.y, y[rows])
    np.testing.assert_array_equal(part.groups, groups[rows])


def test_several_embeddings_are_concatenated(data, make_sets, tmp_path):
    X, y = make_sets()
    views = {"emb_pair": X[..., :2], "emb_completion": X[..., 2:]}
    np.savez(tmp_path / "humaneval_codegen16b.npz", **views, rewards=y)
    found = data.load("humaneval_codegen16b", [tmp_path / "elsewhere", tmp_path])
    np.testing.assert_array_equal(found.X, X)
    assert found.view_sizes == (2, 3) and found.models is None
    assert data.load("hh_harmless", [tmp_path]) is None


@pytest.mark.parametrize("index", range(2))
def test_shared_files(data, index):
    """All files beside the checkout, if there are any."""
    files = (data.FILES, data.MORE_FILES)[index]
    found = [data.load(name, data.FOLDERS[index : index + 1], 5) for name in files]
    found = [each for each in found if each is not None]
    if not found:
        pytest.skip("the data are not here")
    for each in found:
        assert each.X.shape[:2] == each.y.shape and len(each.y) == 5
        assert sum(each.view_sizes) == each.X.shape[2] and each.lengths is not None


def test_bad_files(data, make_npz, tmp_path):
    path, other = tmp_path / "A.npz", tmp_path / "B.npz"
    X, y = make_npz(path, m=6)
    with pytest.raises(SystemExit, match=r"'emb'; it has embeddings, rewards"):
        data.load_file(path, ["emb"])
    np.savez(other, embeddings=X, rewards=y[:, :-1])
    with pytest.raises(SystemExit, match=r"\(40, 6, 5\), \(40, 5\)"):
        data.load_file(other, ["embeddings"])
    np.savez(other, embeddings=X, rewards=np.where(y == y[0, 0], np.nan, y))
    with pytest.raises(SystemExit, match="has NaN or infinity"):
        data.load_file(other, ["embeddings"])
