"""AnswerVote."""

import numpy as np
import pytest
from cases import as_rows
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skqprobe import AnswerVote, CalibratedPolicyCV, QProbePolicy
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.generators import BaseGenerator, BestOfK
from skqprobe.metrics import candidate_values, expected_reward, policy_report


def last_number(text):
    digits = text.split()[-1]
    return int(digits) if digits.isdigit() else None


def make_records(n_prompts=30, k=6, seed=0):
    """Records whose answers are the numbers 0 to 3, and some none; and rewards."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 4, (n_prompts, k))
    words = rng.integers(1, 9, (n_prompts, k))
    records = [
        {
            "prompt": f"{seed} {i}",
            "completions": [
                f"{'a' * n} {'?' if a == 3 else a}" for n, a in zip(*row, strict=True)
            ],
        }
        for i, row in enumerate(zip(words, answers, strict=True))
    ]
    return records, (answers == 1).astype(float), answers, words


def embedder():
    return VectorizerEmbedder(
        lambda texts: [[text.count("a"), "1" in text] for text in texts],
        join=lambda prompt, completion: completion,
    )


@pytest.fixture(scope="module")
def data():
    return make_records()


def make_vote(data, weight="softmax", temperature=1.0):
    records, y, _, _ = data
    policy = QProbePolicy("squared_error", alpha=0.1, temperature=temperature)
    vote = AnswerVote(
        make_pipeline(embedder(), policy), extract=last_number, weight=weight
    )
    return vote.fit(records, y)


def slow(proba, answers):
    """Share of each answer in one prompt; 0 for the answer 3, which is none."""
    shares = {a: proba[answers == a].sum() * (a != 3) for a in set(answers)}
    return np.array([shares[a] for a in answers])


@pytest.mark.parametrize("weight", ["softmax", "count"])
def test_shares_and_choice_by_hand(data, weight):
    records, y, answers, _ = make_records(seed=1)
    vote = make_vote(data, weight)
    values = vote.policy_.decision_function(records)
    proba = vote.policy_.predict_proba(records)
    if weight == "count":
        proba = np.full(y.shape, 1 / 6)
    expected = np.array([slow(*each) for each in zip(proba, answers, strict=True)])
    shares = vote.decision_function(records)
    assert_allclose(shares, expected, rtol=1e-6)
    chosen, found = vote.predict(records), vote.predict_proba(records)
    assert_allclose(found.sum(axis=1), 1)
    for i in range(30):
        winners = np.flatnonzero(shares[i] == shares[i].max())
        best = winners[values[i, winners].argmax()]
        assert chosen[i] == best and found[i, best] > 0
    assert vote.score(records, y) == pytest.approx(expected_reward(y, found))


def test_a_vote_is_not_the_plain_choice():
    # Three candidates of one answer have more probability than the best candidate.
    X = np.array([[[1.0], [0.9], [0.9], [0.9]]])
    policy = QProbePolicy("squared_error", alpha=0, temperature=1.0).fit(X, X[..., 0])
    vote = AnswerVote(policy).fit(X, X[..., 0])
    assert policy.predict(X) == [0]
    assert vote.predict(X) == [1]  # equal rows are equal answers
    assert vote.predict(X, answers=[["a", "b", "c", "d"]]) == [0]
    assert vote.predict(X, answers=[["a", "b", "a", None]]) == [0]
    assert vote.predict(X, answers=[[("f", 1), ("g", 2), ("g", 2), ("h", 2)]]) == [1]
    assert vote.set_params(extract=lambda row: row[0] > 0.95).predict(X) == [1]
    policy.temperature = 0.01
    assert AnswerVote(policy).fit(X, X[..., 0]).predict(X) == [0]


def test_count_needs_no_policy(data):
    records, y, answers, _ = data
    vote = AnswerVote(extract=last_number, weight="count").fit(records, y)
    shares = vote.decision_function(records)
    expected = [slow(np.full(6, 1 / 6), row) for row in answers]
    assert_allclose(shares, expected)
    assert shares.max() < 1
    none = [{"prompt": "", "completions": ["? ?", "?"]}]
    assert_allclose(vote.predict_proba(none), 0.5)
    assert_allclose(vote.decision_function(none), 0)


def test_rows_agree_with_sets(data):
    _, y, answers, words = data
    X = np.stack([words, answers], axis=2) + np.random.default_rng(0).random((30, 6, 2))
    rows, rewards, groups = as_rows(X, y)
    policy = QProbePolicy("squared_error", temperature=0.5)
    in_sets = AnswerVote(policy).fit(X, y)
    in_rows = AnswerVote(policy).fit(rows, rewards, groups)
    order = np.random.default_rng(0).permutation(180)
    labels, found = groups[order], answers.ravel()[order]
    arguments = rows[order], labels
    shares = in_rows.decision_function(*arguments, answers=found)
    expected = in_sets.decision_function(X, answers=answers)
    assert_allclose(shares, expected.ravel()[order])
    chosen = in_rows.predict(*arguments, answers=found)
    first = list(dict.fromkeys(labels))
    expected = in_sets.predict(X, answers=answers) + 6 * np.arange(30)
    assert_array_equal(order[chosen], expected[first])
    score = in_rows.score(rows[order], rewards[order], labels, answers=found)
    assert score == pytest.approx(in_sets.score(X, y, answers=answers))
    weight = np.arange(30)
    proba = in_sets.predict_proba(X, answers=answers)
    expected = np.average((proba * y).sum(axis=1), weights=weight)
    score = in_sets.score(X, y, answers=answers, sample_weight=weight)
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("weight", ["softmax", "count"])
def test_weights_are_copies_of_voters(data, weight):
    _, y, answers, words = data
    X = np.stack([words, answers], axis=2) + np.random.default_rng(0).random((30, 6, 2))
    rows, rewards, groups = as_rows(X, y)
    policy = QProbePolicy("squared_error", temperature=0.5)
    vote = AnswerVote(policy, weight=weight).fit(X, y)
    copies = np.random.default_rng(1).integers(0, 3, size=y.shape)
    copies[:, 0] += 1
    found = vote.score(X, y, sample_weight=copies, answers=answers)
    copied = (
        np.repeat(each, copies.ravel(), axis=0) for each in (rows, rewards, groups)
    )
    labels = np.repeat(answers.ravel(), copies.ravel())
    assert found == pytest.approx(vote.score(*copied, answers=labels))
    assert found != vote.score(X, y, answers=answers)


def test_a_regressor_votes_by_its_values(data):
    records, y, _, _ = data
    pairs = [(r["prompt"], text) for r in records for text in r["completions"]]
    vote = AnswerVote(make_pipeline(embedder(), Ridge()), extract=last_number)
    groups = np.repeat(np.arange(30), 6)
    vote.fit(pairs, y.ravel())
    values = candidate_values(vote.policy_, pairs)
    with pytest.warns(UserWarning, match="temperature of the policy is 0"):
        chosen = vote.predict(pairs, groups)  # a regressor has the temperature 0
    for i, prompt in enumerate(values.reshape(30, 6)):
        if last_number(records[i]["completions"][prompt.argmax()]) is not None:
            assert values[chosen[i]] == prompt.max()


def test_metrics_take_it(data):
    pytest.importorskip("pandas")
    records, y, _, _ = data
    vote = make_vote(data)
    table = policy_report(vote, records, y, ks=[6], n_resamples=99, random_state=0)
    # All candidates of the winning answer have the same reward.
    greedy = table.loc[(6, "greedy"), "value"]
    assert greedy == pytest.approx(vote.score(records, y))


def test_reward_is_predicted_from_the_share(data):
    records, y, _, _ = data
    vote = AnswerVote(extract=last_number, weight="count")
    policy = CalibratedPolicyCV(vote, "linear").fit(records, y)
    shares = policy.decision_function(records)
    predicted = policy.predict_reward(records)
    order = shares.max(axis=1).argsort()
    assert (np.diff(predicted[order]) >= 0).all()
    assert policy.predict_rewards(records).shape == (30, 6)
    pairs = [(r["prompt"], text) for r in records for text in r["completions"]]
    groups = np.repeat(np.arange(30), 6)
    in_rows = CalibratedPolicyCV(vote, "linear").fit(pairs, y.ravel(), groups)
    assert_allclose(in_rows.predict_reward(pairs, groups), predicted)
    assert_allclose(candidate_values(in_rows, pairs, groups), shares.ravel())


class Drawn(BaseGenerator):
    def __init__(self, progress="auto"):
        self.progress = progress

    def sample(self, prompt, k):
        (record,), *_ = make_records(1, k, seed=int(prompt))
        return record | {
            "prompt": prompt,
            "states": np.array(
                [[text.count("a"), "1" in text] for text in record["completions"]],
                dtype=float,
            ),
        }


@pytest.mark.parametrize("embeddings", [None, "states"])
@pytest.mark.parametrize("weight", ["softmax", "count"])
def test_best_of_k(data, embeddings, weight):
    records, y, _, _ = data
    vote = make_vote(data, weight)
    prompts = [str(i) for i in range(20)]
    drawn = Drawn().generate(prompts, 6)
    expected = vote.predict_proba(drawn)
    shares = vote.decision_function(drawn)
    if embeddings:
        X = np.array([vote.policy_[0].transform([r])[0] for r in records])
        policy = QProbePolicy("squared_error", alpha=0.1, temperature=1.0)
        vote = AnswerVote(policy, extract=last_number, weight=weight).fit(X, y)
    best = BestOfK(Drawn(), vote, 6, embeddings=embeddings, random_state=0)
    _, found = best.generate(prompts, return_candidates=True)
    assert_allclose([r["values"] for r in found], shares, rtol=1e-5)
    assert_allclose([r["probabilities"] for r in found], expected)
    assert all(p[r["chosen"]] > 0 for p, r in zip(expected, found, strict=True))
    alone = AnswerVote(extract=last_number, weight="count").fit(records, y)
    best = BestOfK(Drawn(), alone, 6, embeddings=embeddings, random_state=0)
    _, found = best.generate(prompts, return_candidates=True)
    assert_allclose([r["probabilities"] for r in found], alone.predict_proba(drawn))


@pytest.mark.parametrize("weight", ["softmax", "count"])
def test_best_of_k_with_votes_inside(data, weight):
    records, y, _, _ = data
    vote = make_vote(data, weight)
    prompts = [str(i) for i in range(20)]
    drawn = Drawn().generate(prompts, 6)
    for model in (CalibratedPolicyCV(vote, "linear"), GridSearchCV(vote, {}, cv=2)):
        model.fit(records, y)
        best = BestOfK(Drawn(), model, 6, random_state=0)
        _, found = best.generate(prompts, return_candidates=True)
        shares = vote.decision_function(drawn)
        assert_allclose([r["values"] for r in found], shares, rtol=1e-5)
        proba = vote.predict_proba(drawn)
        assert_allclose([r["probabilities"] for r in found], proba)


def test_missing_answers_do_not_vote():
    pd = pytest.importorskip("pandas")
    vote = AnswerVote(weight="count").fit(None, None)
    X, groups, expected = np.zeros((5, 1)), ["a"] * 5, [0.2, 0, 0, 0.4, 0.4]
    plain = pd.Series([1, None, None, 2, 2])
    nan = [1, np.nan, np.nan, 2, 2]  # one object
    times = pd.Series(["2020", None, None, "2021", "2021"], dtype="datetime64[ns]")
    for answers in (plain, plain.astype("Int64"), nan, np.array(nan), times):
        assert_allclose(vote.decision_function(X, groups, answers=answers), expected)
    frame = pd.DataFrame([nan, [None] * 5])
    found = vote.decision_function(np.zeros((2, 5, 1)), answers=frame)
    assert_allclose(found, [expected, np.zeros(5)])


def test_a_candidate_without_answer_is_not_chosen():
    X = np.array([[[3.0], [2.0], [1.0]]])
    policy = QProbePolicy("squared_error", alpha=1e-6).fit(X, X[..., 0])
    vote = AnswerVote(policy).fit(X, X[..., 0])
    with pytest.warns(UserWarning, match="temperature of the policy is 0"):
        chosen = vote.predict(X, answers=[[None, "x", "y"]])
    assert chosen == [1]
    with pytest.warns(UserWarning, match="temperature of the policy is 0"):
        assert vote.predict(X, answers=[[None, None, None]]) == [0]


@pytest.mark.parametrize("weight", ["softmax", "count"])
def test_prompts_without_weight_are_left_out(data, weight):
    records, y, _, _ = data
    vote = make_vote(data, weight)
    copies = np.ones(y.shape)
    copies[3], copies[5, 2] = 0, 0
    rest = [i for i in range(30) if i != 3]
    pairs = [records[i] for i in rest]
    expected = vote.score(pairs, y[rest], sample_weight=copies[rest])
    assert vote.score(records, y, sample_weight=copies) == pytest.approx(expected)


def test_errors(data):
    records, y, _, _ = data
    with pytest.raises(ValueError, match=r"estimator=None .* weight='count'"):
        AnswerVote(extract=last_number).fit(records, y)
    with pytest.raises(NotFittedError):
        AnswerVote(weight="count").predict(records)
    for X in ([], 5, np.zeros(5), np.zeros((2, 2, 2, 2))):
        with pytest.raises(ValueError, match=r"X has shape .* records, sets"):
            AnswerVote(weight="count").fit(None, None).predict(X)
    with pytest.raises(ValueError, match="'extract' parameter"):
        AnswerVote(extract="A:", weight="count").fit(records, y)
    vote = make_vote(data)
    with pytest.raises(ValueError, match=r"answers has shape \(3,\)"):
        vote.predict(records, answers=[1, 2, 3])
    with pytest.raises(TypeError, match=r"answers must be hashable.*'list'"):
        vote.predict(records, answers=[[[1]] * 6] * 30)
    with pytest.raises(ValueError, match="y has shape"):
        vote.score(records, y[:3])
