"""load_records."""

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from skqprobe import QProbePolicy
from skqprobe.embedders import VectorizerEmbedder, flatten_records
from skqprobe.generators import (
    BaseGenerator,
    collect,
    load_records,
    stack_embeddings,
)

K = 3


class Toy(BaseGenerator):
    def __init__(self, progress=False):
        self.progress = progress

    def sample(self, prompt, k):
        return {
            "prompt": prompt,
            "completions": [prompt * (i + 1) for i in range(k)],
            "log_likelihoods": np.arange(k, dtype="float32"),
            "n_tokens": [1, 2, None][:k],
            "finish_reasons": ["stop"] * k,
            "hidden_states": np.ones((k, 2), "float32"),
        }


def reward(item, completion):
    return len(completion) if completion != "bb" else None


def lengths(texts):
    return [[len(text), 1.0] for text in texts]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "records.jsonl"
    items = ["a", {"prompt": "b", "answer": [1, 2]}, "ccc"]
    with pytest.warns(RuntimeWarning, match="1 of 9 rewards failed"):
        collect(items, Toy(), reward, K, path=path)
    return path


def test_arrays_and_rows(path):
    data = load_records(path)
    assert [record["prompt"] for record in data.records] == ["a", "b", "ccc"]
    for record in data.records:
        types = {key: getattr(record[key], "dtype", None) for key in record}
        assert types.pop("rewards") == types.pop("log_likelihoods") == np.float64
        assert types.pop("n_tokens") == np.float64 and np.isnan(record["n_tokens"][2])
        assert types.pop("hidden_states") == np.float32
        assert not any(types.values())
    assert data.records[1]["item"] == {"prompt": "b", "answer": [1, 2]}
    assert list(data.records[1]["errors"]) == [1]
    np.testing.assert_array_equal(data.y, [1, 2, 3, 1, np.nan, 3, 3, 6, 9])
    np.testing.assert_array_equal(data.groups, np.repeat([0, 1, 2], K))
    assert data.texts.shape == (3 * K, 2)
    assert data.texts[1:4].tolist() == [["a", "aa"], ["a", "aaa"], ["b", "b"]]
    assert data.refused == {} and data.reward_version is None


def test_the_rows_are_input_of_fit(path):
    data = load_records(path)
    known = np.isfinite(data.y)
    model = make_pipeline(VectorizerEmbedder(lengths), QProbePolicy("squared_error"))
    texts, y = data.texts[known], data.y[known]
    model.fit(texts, y, qprobepolicy__groups=data.groups[known])
    assert np.isfinite(model[-1].coef_).all()
    X, y = np.delete(data.texts, [3, 4, 5], axis=0), np.delete(data.y, [3, 4, 5])
    regressor = make_pipeline(VectorizerEmbedder(lengths), Ridge())
    cv = GroupKFold(2)
    groups = np.delete(data.groups, [3, 4, 5])
    assert len(cross_val_score(regressor, X, y, groups=groups, cv=cv)) == 2


def test_the_records_are_sets(path):
    complete = [
        r for r in load_records(path).records if np.isfinite(r["rewards"]).all()
    ]
    X = stack_embeddings(complete, ["hidden_states", "log_likelihoods"])
    y = np.stack([record["rewards"] for record in complete])
    assert X.shape == (2, K, 3) and y.dtype == np.float64
    QProbePolicy("squared_error").fit(X, y)
    assert VectorizerEmbedder(lengths).transform(complete).shape == (2, K, 2)


@pytest.mark.parametrize("names", [["right", "short"], None])
def test_several_rewards(names, tmp_path):
    def rewards(item, completion):
        if completion == "bb":
            raise ValueError("no reward")
        numbers = [float(len(item)), -float(len(completion))]
        return numbers if names is None else dict(zip(names, numbers, strict=True))

    path = tmp_path / "records.jsonl"
    with pytest.warns(RuntimeWarning, match="1 of 9 rewards failed"):
        records = collect(["a", "b", "ccc"], Toy(), rewards, K, path=path)
    assert records[0]["rewards"][1] == rewards("a", "aa")
    assert records[1]["rewards"][1] is None
    data = load_records(path)
    assert data.objective_names == names
    expected = [[1, -1], [1, -2], [1, -3], [1, -1], [np.nan] * 2, [1, -3]]
    np.testing.assert_array_equal(data.y, [*expected, [3, -3], [3, -6], [3, -9]])
    for record, start in zip(data.records, (0, 3, 6), strict=True):
        np.testing.assert_array_equal(record["rewards"], data.y[start : start + K])
    known = np.isfinite(data.y).all(axis=1)
    X = VectorizerEmbedder(lengths).transform(data.texts[known])
    with pytest.warns(UserWarning, match="1 of 9 rewards failed"):
        flat = flatten_records(records)[2]
    for y in (data.y[known], flat):
        policy = QProbePolicy("squared_error").fit(X, y, data.groups[known])
        assert policy.coef_.shape == (2, 2)
        found = getattr(policy, "objective_names_", None)
        assert found is None if names is None else found.tolist() == names
    complete = [records[0], records[2]]
    sets = [record["rewards"] for record in complete]
    X = stack_embeddings(complete, "hidden_states")
    assert QProbePolicy("squared_error").fit(X, sets).coef_.shape == (2, 2)


def test_rewards_of_different_objectives(tmp_path):
    returned = [{"right": 1.0, "short": 0.5}, {"short": 0.0, "right": 0.0}]
    returned += [{"right": 1.0}, [1.0, 0.5], 1.0]
    path = tmp_path / "records.jsonl"
    calls = iter(returned)
    with pytest.warns(RuntimeWarning, match="3 of 5 rewards failed.*objectives"):
        records = collect(
            ["a"], Toy(), lambda *_: next(calls), 5, path=path, reward_concurrency=1
        )
    assert records[0]["rewards"] == [*returned[:2], None, None, None]
    others = "but others have the objectives ['right', 'short']"
    assert list(records[0]["errors"].values()) == [
        f"ValueError: the reward has {found}, {others}"
        for found in ("the objectives ['right']", "2 numbers in a list", "one number")
    ]
    # So do rewards of the next call, which continues.
    with pytest.warns(RuntimeWarning, match=r"3 of 5.* \['right', 'short'\]"):
        collect(["a"], Toy(), lambda *_: 1.0, 5, path=path)
    assert load_records(path).y.shape == (5, 2)
    records = collect(["a"], Toy(), lambda *_: 1.0, 5, path=path, rescore=True)
    assert records[0]["rewards"] == [1.0] * 5
    path = tmp_path / "mine.jsonl"
    plain = {"prompt": "a", "completions": ["b", "c"]}
    for rewards in ([1.0, [1.0, 2.0]], [{"a": 1.0}, {"b": 1.0}], [[1.0], [1.0, 2.0]]):
        path.write_text(json.dumps({**plain, "rewards": rewards}))
        words = r"rewards in .*mine\.jsonl differ: (one has the|they have the shapes)"
        with pytest.raises(ValueError, match=words):
            load_records(path)
        with pytest.raises(ValueError, match=r"must be.* the same objectives"):
            flatten_records([{**plain, "rewards": rewards}])
    path.write_text(json.dumps({**plain, "rewards": [{"a": 1.0}, {"a": None}]}))
    with pytest.raises(ValueError, match="Line 1 of"):
        load_records(path)


def test_an_incomplete_file(path):
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for n_lines in range(len(lines)):
        begun = b"".join(lines[:n_lines]) + lines[n_lines][:30]
        path.write_bytes(begun)
        data = load_records(path)
        n_records = sum(b'"completions"' in line for line in lines[:n_lines])
        assert len(data.y) == len(data.texts) == len(data.groups) == K * n_records
        n_known = sum(b'"reward"' in line for line in lines[:n_lines])
        assert np.isfinite(data.y).sum() == n_known
        assert path.read_bytes() == begun


def test_ragged_records_of_other_programs(tmp_path):
    path = tmp_path / "mine.jsonl"
    chat = [{"role": "user", "content": "Hi"}]
    lines = [
        {"prompt": chat, "completions": ["x"], "rewards": [True]},
        {"prompt": "b", "completions": ["y", "z"], "rewards": [None, 0.5], "x": ["a"]},
        {"prompt": "c", "completions": [], "rewards": [], "y": [10**30]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    data = load_records(path)
    assert data.texts.tolist() == [[chat, "x"], ["b", "y"], ["b", "z"]]
    embedded = VectorizerEmbedder(lengths).transform(data.texts[[0, 2]])
    np.testing.assert_array_equal(embedded[:, 0], [len("user: Hi\nx"), len("b\nz")])
    np.testing.assert_array_equal(data.y, [1, np.nan, 0.5])
    assert data.y.dtype == np.float64
    np.testing.assert_array_equal(data.groups, [0, 1, 1])
    assert data.records[1]["x"] == ["a"] and data.records[2]["y"].dtype == np.float64


@pytest.mark.parametrize("n_messages", [1, 2])
def test_chats_of_equal_length_are_entries(tmp_path, n_messages):
    path = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "Hi"}] * n_messages
    lines = [{"prompt": chat, "completions": ["x"], "rewards": [1]}] * 2
    path.write_text("\n".join(map(json.dumps, lines)))
    texts = load_records(path).texts
    assert texts.shape == (2, 2) and texts.tolist() == [[chat, "x"]] * 2
    assert VectorizerEmbedder(lengths).transform(texts).shape == (2, 2)


@pytest.mark.parametrize("bad", [5, None, [], ["a"], [{"role": "user"}]])
def test_a_prompt_is_a_text_or_messages(tmp_path, bad):
    path = tmp_path / "mine.jsonl"
    good, line = (
        {"prompt": p, "completions": ["x"], "rewards": [1]} for p in ("a", bad)
    )
    path.write_text(json.dumps(line))
    with pytest.raises(
        ValueError, match=r"^Line 1 of .*l is .* that collect wrote: it"
    ):
        load_records(path)
    path.write_text("\n".join(map(json.dumps, [good, line])))
    with pytest.raises(ValueError, match=r"^Line 2 of .* wrote after line 1: it was"):
        load_records(path)


def test_no_file_and_an_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.jsonl"):
        load_records(tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    data = load_records(empty)
    assert data.records == [] and data.texts.shape == (0, 2)
    assert data.y.shape == data.groups.shape == (0,)
