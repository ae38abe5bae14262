import datetime
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbeRegressor
from skqprobe._candidates.layout import check_layout
from skqprobe._candidates.validation import check_candidates, check_weights

# Labels of many types that are told apart by == and hash, as in a dictionary: 1, 1.0
# and True are one label, 1 and "1" are two.
LABELS = st.one_of(
    st.integers(-2, 2),
    st.sampled_from(["", "1", "2", "a", "b", "ab"]),
    st.booleans(),
    st.floats(allow_nan=False, width=16),
    st.dates(datetime.date(2024, 2, 28), datetime.date(2024, 3, 2)),
    st.tuples(st.integers(0, 1), st.sampled_from("ab")),
    st.binary(max_size=1),
    st.frozensets(st.integers(0, 1)),
)
ragged = st.lists(LABELS, min_size=1, max_size=25)
few = st.lists(st.integers(0, 4), min_size=1, max_size=25)
quick = settings(deadline=None, max_examples=60)


def members(labels):
    """Positions of each label, labels in the order of their first appearance."""
    positions = {}
    for i, label in enumerate(labels):
        positions.setdefault(label, []).append(i)
    return list(positions.values())


def chained(lists):
    return list(itertools.chain.from_iterable(lists))


def prompts_of(layout):
    """User's positions of each prompt's rows, as the layout has them."""
    n = int(np.prod(layout.shape))
    order = np.arange(n) if layout.order is None else layout.order
    return [rows.tolist() for rows in np.split(order, layout.offsets[1:-1])]


# Layouts from labels


@quick
@given(ragged)
def test_prompts_are_groups_in_order_of_first_appearance(labels):
    layout = check_layout((len(labels),), labels)
    assert prompts_of(layout) == members(labels)
    assert layout.offsets[0] == 0
    assert layout.n_prompts == len(members(labels))
    assert layout.n_rows == len(labels)
    assert layout.sizes.tolist() == [len(rows) for rows in members(labels)]
    assert layout.grouped


@quick
@given(ragged)
def test_relabelled_groups_give_the_same_layout(labels):
    # Names that sort in another order than the prompts appear in, of other types.
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    for rename in (
        lambda i: -i,
        lambda i: f"prompt {100 - i}",
        lambda i: ("tuple", i),
        lambda i: float(i) + 0.5,
    ):
        renamed = [rename(number[label]) for label in labels]
        assert prompts_of(check_layout((len(labels),), renamed)) == members(labels)


class Same:
    """Labels that are told apart by == alone."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return self.name == other.name


@pytest.mark.parametrize(
    "name",
    [
        lambda i: -i,  # in Python, -1 and -2 have the same hash
        lambda i: i << 40,  # all the same in their low bits
        lambda i: 2**63 + i,
        lambda i: f"{i}" * 20_000,
        lambda i: f"{i}".encode(),
        lambda i: "\U0001f600" * i,
        lambda i: Same(i),
        lambda i: np.datetime64("2020-01-01") + np.timedelta64(i, "D"),
        lambda i: complex(0, i),
    ],
)
@pytest.mark.parametrize("as_array", [True, False])
def test_labels_whose_hashes_are_alike_are_told_apart(rng, name, as_array):
    numbers = rng.integers(0, 7, size=60)
    labels = [name(int(number)) for number in numbers]
    labels = np.array(labels) if as_array else labels
    layout = check_layout((60,), labels)
    assert prompts_of(layout) == members(numbers.tolist())


@pytest.mark.parametrize("kind", ["U3", "S3", object])
def test_a_collision_of_hashes_is_noticed(rng, monkeypatch, kind):
    numbers = rng.integers(0, 7, size=60)
    labels = numbers.astype("U3").astype(kind)
    monkeypatch.setattr(
        "skqprobe._candidates.labels._hash_characters",
        lambda labels: np.zeros(len(labels), dtype=np.int64),
    )
    assert prompts_of(check_layout((60,), labels)) == members(numbers.tolist())


def test_labels_of_many_blocks(rng, monkeypatch):
    monkeypatch.setattr("skqprobe._candidates.labels.LABELS_AT_ONCE", 16)
    numbers = rng.integers(0, 30, size=100)
    for labels in (numbers.astype(str), numbers.astype(str).astype(object)):
        assert prompts_of(check_layout((100,), labels)) == members(numbers.tolist())


@quick
@given(ragged)
def test_to_rows_and_from_rows_are_inverse(labels):
    layout = check_layout((len(labels),), labels)
    values = np.arange(len(labels)) * 1.5
    rows = layout.to_prompt_order(values)
    # Prompt by prompt, and there and back in both directions.
    assert (rows / 1.5).tolist() == chained(members(labels))
    np.testing.assert_array_equal(layout.to_user_order(rows), values)
    np.testing.assert_array_equal(
        layout.to_prompt_order(layout.to_user_order(values)), values
    )


@quick
@given(ragged, st.integers(0, 10**6))
def test_answer_names_positions(labels, seed):
    layout = check_layout((len(labels),), labels)
    rng = np.random.default_rng(seed)
    one = layout.offsets[:-1] + rng.integers(0, layout.sizes)
    for position, rows in zip(layout.to_user_index(one), members(labels), strict=True):
        assert position in rows
    many = layout.offsets[:-1, None] + rng.integers(
        0, layout.sizes[:, None], size=(layout.n_prompts, 3)
    )
    answer = layout.to_user_index(many)
    assert answer.shape == many.shape
    np.testing.assert_array_equal(answer[:, 1], layout.to_user_index(many[:, 1]))


@quick
@given(few, st.data())
def test_keep_drops_rows_and_empty_prompts(labels, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=None))
    mask = np.array(mask[: len(labels)])
    mask[data.draw(st.integers(0, len(labels) - 1))] = True
    layout = check_layout((len(labels),), labels)
    kept = layout.keep(layout.to_prompt_order(mask))
    expected = [[i for i in rows if mask[i]] for rows in members(labels)]
    assert prompts_of(kept) == [rows for rows in expected if rows]
    assert kept.n_rows == mask.sum()
    # Values still come in the shape of X, dropped rows included.
    assert kept.to_prompt_order(np.arange(len(labels))).tolist() == chained(expected)


@quick
@given(few, st.integers(1, 6), st.integers(0, 100))
def test_split_deals_candidates_evenly(labels, n_candidates, seed):
    layout = check_layout((len(labels),), labels)
    dealt, n_sets = layout.split(n_candidates, np.random.RandomState(seed))
    sizes = [len(rows) for rows in members(labels)]
    assert n_sets.tolist() == [-(-size // n_candidates) for size in sizes]
    assert dealt.sizes.max() <= n_candidates
    # The sets of a prompt follow each other, so that weights can be repeated n_sets
    # times; within a prompt no candidate is lost, and sizes differ by at most one.
    sets = prompts_of(dealt)
    for rows, stop, n in zip(members(labels), np.cumsum(n_sets), n_sets, strict=True):
        of_prompt = sets[stop - n : stop]
        assert sorted(chained(of_prompt)) == rows
        lengths = [len(rows) for rows in of_prompt]
        assert max(lengths) - min(lengths) <= 1


def test_split_is_random_and_determined_by_its_seed():
    # Of 4 candidates dealt in pairs, the first is as often with each of the others.
    layout = check_layout((3000, 4))
    dealt, _ = layout.split(2, np.random.RandomState(0))
    pairs = dealt.order.reshape(-1, 2) % 4
    with_first = np.sort(pairs[(pairs == 0).any(axis=1)], axis=1)[:, 1]
    assert chisquare(np.bincount(with_first)[1:]).pvalue > 0.01
    again, _ = layout.split(2, np.random.RandomState(0))
    np.testing.assert_array_equal(dealt.order, again.order)
    other, _ = layout.split(2, np.random.RandomState(1))
    assert (dealt.order != other.order).any()


def test_split_into_sets_no_smaller_than_prompts_changes_nothing_but_order():
    labels = ["b", "a", "b", "b", "c"]
    layout = check_layout((5,), labels)
    dealt, n_sets = layout.split(3, np.random.RandomState(0))
    assert n_sets.tolist() == [1, 1, 1]
    assert [sorted(rows) for rows in prompts_of(dealt)] == members(labels)


def test_sets_lie_prompt_by_prompt():
    layout = check_layout((3, 4))
    assert layout.grouped
    assert layout.order is None
    assert layout.offsets.tolist() == [0, 4, 8, 12]
    values = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(
        layout.to_user_order(layout.to_prompt_order(values)), values
    )
    # Chosen rows are named along axis 1, for one draw and for several.
    assert layout.to_user_index(np.array([3, 4, 10])).tolist() == [3, 0, 2]
    many = np.array([[3, 0], [4, 5], [10, 11]])
    assert layout.to_user_index(many).tolist() == [[3, 0], [0, 1], [2, 3]]


def test_sets_only_check_the_groups():
    layout = check_layout((2, 3), groups=["same", "same"])
    assert layout.offsets.tolist() == [0, 3, 6]
    with pytest.raises(ValueError, match=r"groups has 6 labels, but X has 2 prompts"):
        check_layout((2, 3), groups=[0, 0, 0, 1, 1, 1])


def test_rows_without_groups_are_prompts_of_their_own():
    layout = check_layout((3,))
    assert not layout.grouped
    assert layout.offsets.tolist() == [0, 1, 2, 3]
    # As sets with k = 1: always candidate 0.
    assert layout.to_user_index(np.arange(3)).tolist() == [0, 0, 0]


def test_rows_in_order_need_no_order():
    # So that X is read in slices, without a copy.
    assert check_layout((5,), ["b", "b", "a", "c", "c"]).order is None
    assert check_layout((5,), ["b", "a", "b", "c", "c"]).order is not None


# Kinds of labels


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(["b", "a", "b", "c"], id="str"),
        pytest.param([3, 1, 3, 2], id="int"),
        pytest.param([2**70, 1, 2**70, -1], id="big int"),
        pytest.param([0.5, -0.0, 0.5, 1e300], id="float"),
        pytest.param([(1, "x"), (1, "y"), (1, "x"), (2, "x")], id="tuple"),
        pytest.param([1, "1", 1, (1,)], id="1 and '1' differ"),
        pytest.param([b"1", "1", b"1", 1], id="bytes and str differ"),
        pytest.param(
            [
                datetime.date(2024, 1, 2),
                datetime.date(2024, 1, 1),
                datetime.date(2024, 1, 2),
                datetime.datetime(2024, 1, 2),
            ],
            id="dates",
        ),
        pytest.param([np.str_("b"), "a", "b", np.str_("c")], id="numpy str"),
        pytest.param([np.int64(3), 1, 3.0, np.float32(2)], id="numpy numbers"),
        pytest.param([frozenset({1}), frozenset(), frozenset({1}), 1], id="frozenset"),
    ],
)
@pytest.mark.parametrize("container", ["list", "tuple", "object array"])
def test_labels_of_any_type(labels, container):
    if container == "tuple":
        labels = tuple(labels)
    elif container == "object array":
        labels = np.fromiter(labels, dtype=object, count=4)
    assert prompts_of(check_layout((4,), labels)) == [[0, 2], [1], [3]]


def test_bool_labels():
    assert prompts_of(check_layout((3,), [True, False, True])) == [[0, 2], [1]]
    groups = np.array([True, False, True])
    assert prompts_of(check_layout((3,), groups)) == [[0, 2], [1]]


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint64", "float32", "float16", "U3", "S3", "O", "M8[D]", "m8[s]", "c16"],
)
def test_labels_in_numpy_arrays(dtype):
    groups = np.array([7, 3, 7, 5]).astype(dtype)
    assert prompts_of(check_layout((4,), groups)) == [[0, 2], [1], [3]]


def test_long_integers_are_not_taken_for_floats():
    # 2**53 and 2**53 + 1 are one float64.
    groups = np.array([2**53, 2**53 + 1, 2**53])
    assert prompts_of(check_layout((3,), groups)) == [[0, 2], [1]]
    assert prompts_of(check_layout((3,), groups.tolist())) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["b", "a", "b", "c"], None),
        (["b", "a", "b", "c"], "object"),
        (["b", "a", "b", "c"], "string"),
        (["b", "a", "b", "c"], "category"),
        ([3, 1, 3, 2], "int64"),
        ([3, 1, 3, 2], "Int64"),
        ([3, 1, 3, 2], "category"),
        ([0.5, 0.25, 0.5, 0.0], "Float64"),
        ([1, "1", 1, (1,)], "object"),
        (["2024-01-02", "2024-01-01", "2024-01-02", "2024"], "datetime64[ns]"),
        (["2024-01-02", "2024-01-01", "2024-01-02", "2024"], "datetime64[ns, UTC]"),
        ([3, 1, 3, 2], "timedelta64[ns]"),
        (["2024-02", "2024-03", "2024-02", "2024-01"], "period[M]"),
    ],
)
@pytest.mark.parametrize("container", ["Series", "Index", "array"])
def test_labels_in_pandas_containers(values, dtype, container):
    pd = pytest.importorskip("pandas")
    if str(dtype).startswith("datetime64"):
        # pandas will not read "2024" beside whole dates.
        values = pd.to_datetime([v if len(v) > 4 else f"{v}-05-05" for v in values])
    if container == "Series":
        # An index that is no position: rows count by place, whatever their name.
        groups = pd.Series(list(values), dtype=dtype, index=[9, 9, 0, 2])
    elif container == "Index":
        groups = pd.Index(list(values), dtype=dtype)
    else:
        groups = pd.Series(list(values), dtype=dtype).array
    assert prompts_of(check_layout((4,), groups)) == [[0, 2], [1], [3]]


def test_labels_in_pandas_boolean_and_multi_index():
    pd = pytest.importorskip("pandas")
    groups = pd.Series([True, False, True], dtype="boolean")
    assert prompts_of(check_layout((3,), groups)) == [[0, 2], [1]]
    groups = pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (1, "x")])
    assert prompts_of(check_layout((3,), groups)) == [[0, 2], [1]]
    groups = pd.Categorical(["b", "a", "b"], categories=["z", "a", "b"])
    assert prompts_of(check_layout((3,), groups)) == [[0, 2], [1]]


@pytest.mark.parametrize("dtype", ["String", "Categorical", "Int32", "Float64", "Date"])
def test_labels_in_polars_series(dtype):
    pl = pytest.importorskip("polars")
    values = {
        "String": ["b", "a", "b", "c"],
        "Categorical": ["b", "a", "b", "c"],
        "Date": [datetime.date(2024, 1, day) for day in (2, 1, 2, 5)],
    }.get(dtype, [3, 1, 3, 2])
    groups = pl.Series(values, dtype=getattr(pl, dtype))
    assert prompts_of(check_layout((4,), groups)) == [[0, 2], [1], [3]]


# Estimators on the layouts


@pytest.mark.parametrize(
    "rename",
    [
        pytest.param(lambda i: f"prompt {i}", id="str"),
        pytest.param(lambda i: 7 - i, id="int"),
        pytest.param(lambda i: ("prompt", i), id="tuple"),
        pytest.param(lambda i: i if i % 2 else str(i), id="mixed"),
        pytest.param(lambda i: i / 3, id="float"),
        pytest.param(lambda i: datetime.date.fromordinal(738000 - i), id="date"),
    ],
)
def test_estimators_take_labels_of_any_type(rows, rename):
    X, y, groups = rows
    named = [rename(int(label.split()[1])) for label in groups]
    expected = QProbePolicy().fit(X, y, groups)
    policy = QProbePolicy().fit(X, y, named)
    np.testing.assert_array_equal(policy.coef_, expected.coef_)
    np.testing.assert_array_equal(policy.predict(X, named), policy.predict(X, groups))
    assert policy.score(X, y, named) == expected.score(X, y, groups)


def test_prompts_of_one_candidate_leave_no_choice(rows):
    X, y, groups = rows
    labels, sizes = np.unique(groups, return_counts=True)
    alone = np.isin(groups, labels[sizes == 1])
    assert 0 < alone.sum() < len(groups), "the fixture should have both kinds"
    policy = QProbePolicy("policy_gradient", alpha=0.01, temperature=1.0)
    policy.fit(X, y, groups)
    np.testing.assert_array_equal(policy.predict_proba(X, groups)[alone], 1.0)
    for chosen in (policy.predict(X, groups), policy.sample(X, groups)):
        assert set(np.flatnonzero(alone)) <= set(chosen)
    # They count in the mean, where they are constant: without them the fit is the
    # same at an alpha that is as much larger as the mean is over fewer prompts.
    policy.set_params(tol=1e-8).fit(X, y, groups)
    alpha = policy.alpha * len(labels) / (sizes > 1).sum()
    without = QProbePolicy("policy_gradient", alpha=alpha, tol=1e-8)
    without.fit(X[~alone], y[~alone], groups[~alone])
    np.testing.assert_allclose(policy.coef_, without.coef_, rtol=1e-5)


def test_predict_gives_a_row_of_each_prompt_in_order(rows):
    X, y, groups = rows
    policy = QProbePolicy().fit(X, y, groups)
    q = policy.decision_function(X)
    assert q.shape == groups.shape
    chosen = policy.predict(X, groups)
    # In order of first appearance, and the best of its prompt by the probe's value.
    assert groups[chosen].tolist() == list(dict.fromkeys(groups))
    for row in chosen:
        assert q[row] == q[groups == groups[row]].max()
    assert groups[policy.sample(X, groups)].tolist() == list(dict.fromkeys(groups))
    many = policy.sample(X, groups, size=3)
    assert many.shape == (len(chosen), 3)
    assert (groups[many] == groups[chosen][:, None]).all()


@pytest.mark.parametrize("frame", ["pandas", "polars", "list"])
@pytest.mark.parametrize("Probe", [QProbeRegressor, QProbePolicy])
def test_rows_from_frames_and_lists(rows, rng, Probe, frame):
    X, y, groups = rows
    weight = rng.integers(1, 4, size=len(y)).astype(float)
    if frame == "list":
        data = X.tolist(), y.tolist(), groups.tolist(), weight.tolist()
    else:
        module = pytest.importorskip(frame)
        names = [f"e{i}" for i in range(X.shape[1])]
        data = (
            module.DataFrame(dict(zip(names, X.T, strict=True))),
            module.Series(y),
            module.Series(groups.tolist()),
            module.Series(weight),
        )
    expected = Probe().fit(X, y, groups, sample_weight=weight)
    probe = Probe().fit(*data[:3], sample_weight=data[3])
    # A frame may come in Fortran order, for which BLAS rounds differently.
    np.testing.assert_allclose(probe.coef_, expected.coef_, rtol=1e-8)
    np.testing.assert_allclose(probe.score(*data[:3]), expected.score(X, y, groups))
    if Probe is QProbePolicy:
        np.testing.assert_array_equal(
            probe.predict(data[0], data[2]), expected.predict(X, groups)
        )


@pytest.mark.parametrize("frame", ["pandas", "polars", "list"])
@pytest.mark.parametrize("Probe", [QProbeRegressor, QProbePolicy])
def test_sets_from_frames_and_lists(sets, rng, Probe, frame):
    X, y = sets
    weight = rng.integers(1, 4, size=y.shape).astype(float)
    if frame == "list":
        data = X.tolist(), y.tolist(), weight.tolist()
        by_prompt = weight[:, 0].tolist()
    else:
        module = pytest.importorskip(frame)
        # There is no frame of three dimensions; a list of frames is a nested list.
        data = (
            [module.DataFrame(candidates) for candidates in X],
            module.DataFrame(y),
            module.DataFrame(weight),
        )
        by_prompt = module.Series(weight[:, 0])
    for theirs, ours in [(data[2], weight), (by_prompt, weight[:, 0])]:
        expected = Probe().fit(X, y, sample_weight=ours)
        probe = Probe().fit(data[0], data[1], sample_weight=theirs)
        np.testing.assert_allclose(probe.coef_, expected.coef_, rtol=1e-8)
        np.testing.assert_allclose(
            probe.score(data[0], data[1], sample_weight=theirs),
            expected.score(X, y, sample_weight=ours),
        )


@pytest.mark.parametrize("frame", ["pandas", "polars"])
@pytest.mark.parametrize("Probe", [QProbeRegressor, QProbePolicy])
def test_feature_names(rows, Probe, frame):
    module = pytest.importorskip(frame)
    X, y, groups = rows
    named = module.DataFrame(dict(zip("abcd", X.T, strict=True)))
    renamed = module.DataFrame(dict(zip("abdc", X.T, strict=True)))
    if not hasattr(StandardScaler().fit(named), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not see the names in {frame}'s frames")
    score = {"y": y, "groups": groups}
    probe = Probe().fit(named, y, groups)
    assert probe.feature_names_in_.tolist() == list("abcd")
    assert probe.n_features_in_ == 4
    value = probe.score(named, **score)
    with pytest.raises(ValueError, match="feature names should match"):
        probe.score(renamed, **score)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert probe.score(X, **score) == pytest.approx(value)
    # A refit with an array forgets the names: any names then only warn.
    probe.fit(X, y, groups)
    assert not hasattr(probe, "feature_names_in_")
    with pytest.warns(UserWarning, match="fitted without feature names"):
        probe.score(renamed, **score)
    # And with sets, that have none either.
    probe.fit(named, y, groups).fit(np.stack([X, X]), np.stack([y, y]))
    assert not hasattr(probe, "feature_names_in_")


def test_columns_without_names(rows):
    pd = pytest.importorskip("pandas")
    X, y, groups = rows
    policy = QProbePolicy().fit(pd.DataFrame(X), y, groups)  # integer column names
    assert not hasattr(policy, "feature_names_in_")
    assert policy.n_features_in_ == 4


# Checks on arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_are_not_copied(rng, dtype):
    X = rng.normal(size=(5, 3, 2)).astype(dtype)
    for given_X, shape in [(X, (5, 3)), (X.reshape(15, 2), (15,))]:
        checked, leading = check_candidates(QProbePolicy(), given_X, reset=True)
        assert np.shares_memory(checked, X)
        assert checked.dtype == dtype
        assert checked.shape == (15, 2)
        assert leading == shape


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, bool, object])
def test_other_dtypes_become_float64(rng, dtype):
    X = rng.integers(0, 2, size=(5, 3, 2)).astype(dtype)
    checked, _ = check_candidates(QProbePolicy(), X, reset=True)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, X.reshape(15, 2).astype(float))


def test_n_features_is_the_last_axis():
    policy = QProbePolicy()
    check_candidates(policy, np.zeros((5, 3, 2)), reset=True)
    assert policy.n_features_in_ == 2
    # Rows of as many features then fit, sets of as many candidates do not.
    check_candidates(policy, np.zeros((7, 2)), reset=False)
    with pytest.raises(ValueError, match=r"X has 3 features.* expecting 2"):
        check_candidates(policy, np.zeros((5, 2, 3)), reset=False)


def test_weights_of_prompts_and_of_candidates():
    sets, rows = check_layout((2, 3)), check_layout((3,), [0, 1, 0])
    for layout, n_prompts in [(sets, 2), (rows, 2), (check_layout((3,)), 3)]:
        prompt, row = check_weights(None, layout)
        assert prompt.tolist() == [1] * n_prompts
        assert row is None
    prompt, row = check_weights([1, 2], sets)
    assert prompt.tolist() == [1, 2]
    assert row is None
    prompt, row = check_weights([[1, 2, 3], [4, 5, 6]], sets)
    assert prompt.tolist() == [1, 1]
    assert row.tolist() == [[1, 2, 3], [4, 5, 6]]
    # Rows: of candidates with groups; without, each row is a prompt.
    prompt, row = check_weights([1, 2, 3], rows)
    assert prompt.tolist() == [1, 1]
    assert row.tolist() == [1, 2, 3]
    prompt, row = check_weights([1, 2, 3], check_layout((3,)))
    assert prompt.tolist() == [1, 2, 3]
    assert row is None


def test_square_sets_of_weights_are_those_of_candidates():
    # n_prompts == k: only the number of axes tells the two kinds apart.
    layout = check_layout((2, 2))
    assert check_weights([3, 4], layout)[1] is None
    assert check_weights([[3, 4], [5, 6]], layout)[1] is not None


def test_one_weight_for_all(sets):
    # As scikit-learn's _check_sample_weight, which takes a number for all samples.
    X, y = sets
    policy = QProbePolicy().fit(X, y, sample_weight=2.0)
    np.testing.assert_array_equal(policy.coef_, QProbePolicy().fit(X, y).coef_)
    assert policy.score(X, y, sample_weight=2.0) == policy.score(X, y)
