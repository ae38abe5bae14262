from itertools import chain, pairwise

import numpy as np
from cases import positions_of, prompts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.stats import chisquare

from skqprobe._candidates.layout import check_layout

quick = settings(deadline=None, max_examples=60)
ragged = st.lists(st.integers(0, 4), min_size=1, max_size=25)


def layout_of(labels):
    return check_layout((len(labels),), labels)


def chained(lists):
    return list(chain.from_iterable(lists))


@quick
@given(ragged)
def test_prompts_are_in_order_of_first_appearance(labels):
    layout, expected = layout_of(labels), positions_of(labels)
    assert prompts_of(layout) == expected
    assert layout.offsets[0] == 0
    assert layout.n_prompts == len(expected)
    assert layout.n_rows == len(labels)
    assert layout.sizes.tolist() == [len(rows) for rows in expected]
    assert layout.grouped


@quick
@given(ragged)
def test_prompt_order_and_user_order_are_inverse(labels):
    layout, values = layout_of(labels), np.arange(len(labels))
    ordered = layout.to_prompt_order(values)
    assert ordered.tolist() == chained(positions_of(labels))
    assert_array_equal(layout.to_user_order(ordered), values)
    assert_array_equal(layout.to_prompt_order(layout.to_user_order(values)), values)


@quick
@given(ragged)
def test_order_of_values_with_a_last_axis(labels):
    layout = layout_of(labels)
    values = np.arange(2 * len(labels)).reshape(-1, 2)
    ordered = layout.to_prompt_order(values)
    for j in range(2):
        assert_array_equal(ordered[:, j], layout.to_prompt_order(values[:, j]))
    assert_array_equal(layout.to_user_order(ordered), values)


@quick
@given(ragged, st.integers(0, 10**6))
def test_to_user_index_gives_positions_of_the_prompt(labels, seed):
    layout, rng = layout_of(labels), np.random.default_rng(seed)
    one = layout.offsets[:-1] + rng.integers(0, layout.sizes)
    found = layout.to_user_index(one)
    assert all(i in rows for i, rows in zip(found, positions_of(labels), strict=True))
    many = layout.offsets[:-1, None] + rng.integers(
        0, layout.sizes[:, None], size=(layout.n_prompts, 3)
    )
    found = layout.to_user_index(many)
    assert found.shape == many.shape
    assert_array_equal(found[:, 1], layout.to_user_index(many[:, 1]))


@quick
@given(ragged, st.data())
def test_keep_drops_rows_and_empty_prompts(labels, data):
    n = len(labels)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    mask[data.draw(st.integers(0, n - 1))] = True
    layout = layout_of(labels)
    kept = layout.keep(layout.to_prompt_order(mask))
    expected = [[i for i in rows if mask[i]] for rows in positions_of(labels)]
    assert prompts_of(kept) == [rows for rows in expected if rows]
    assert kept.n_rows == mask.sum()
    # Values still have the shape of X, dropped rows included.
    assert kept.to_prompt_order(np.arange(n)).tolist() == chained(expected)


@quick
@given(ragged, st.integers(1, 6), st.integers(0, 100))
def test_split_makes_sets_of_about_equal_size(labels, n_candidates, seed):
    split, n_sets = layout_of(labels).split(n_candidates, np.random.RandomState(seed))
    prompts = positions_of(labels)
    assert n_sets.tolist() == [-(-len(rows) // n_candidates) for rows in prompts]
    assert split.sizes.max() <= n_candidates
    # The sets of a prompt are contiguous, so that weights can be repeated n_sets times.
    sets = prompts_of(split)
    for rows, stop, n in zip(prompts, np.cumsum(n_sets), n_sets, strict=True):
        of_prompt = sets[stop - n : stop]
        assert sorted(chained(of_prompt)) == rows
        lengths = [len(rows) for rows in of_prompt]
        assert max(lengths) - min(lengths) <= 1


def test_split_is_random_and_determined_by_its_seed():
    layout = check_layout((3000, 4))
    split, again, other = (
        layout.split(2, np.random.RandomState(seed))[0].order for seed in (0, 0, 1)
    )
    # Of 4 candidates in pairs, the first is equally often with each of the others.
    pairs = split.reshape(-1, 2) % 4
    with_first = np.sort(pairs[(pairs == 0).any(axis=1)], axis=1)[:, 1]
    assert chisquare(np.bincount(with_first)[1:]).pvalue > 0.01
    assert_array_equal(split, again)
    assert (split != other).any()


@quick
@given(ragged)
def test_by_size(labels):
    layout = layout_of(labels)
    found = {}
    for prompts, rows in layout.by_size():
        found |= dict(zip(prompts.tolist(), rows.tolist(), strict=True))
    offsets = layout.offsets.tolist()
    assert found == {p: list(range(*pair)) for p, pair in enumerate(pairwise(offsets))}


def test_sets_are_in_prompt_order():
    # Groups are for splitters.
    for layout in (check_layout((3, 4)), check_layout((3, 4), ["same"] * 3)):
        assert layout.grouped
        assert layout.order is None
        assert layout.offsets.tolist() == [0, 4, 8, 12]
    values = np.arange(12.0).reshape(3, 4)
    assert_array_equal(layout.to_user_order(layout.to_prompt_order(values)), values)
    # Indices are along axis 1, for one draw and for several.
    assert layout.to_user_index(np.array([3, 4, 10])).tolist() == [3, 0, 2]
    many = np.array([[3, 0], [4, 5], [10, 11]])
    assert layout.to_user_index(many).tolist() == [[3, 0], [0, 1], [2, 3]]


def test_sets_with_a_last_axis():
    layout, values = check_layout((2, 3)), np.arange(12).reshape(2, 3, 2)
    assert_array_equal(layout.to_prompt_order(values), values.reshape(6, 2))
    assert_array_equal(layout.to_user_order(values.reshape(6, 2)), values)


def test_each_row_without_groups_is_a_prompt():
    layout = check_layout((3,))
    assert layout.grouped is False
    assert layout.offsets.tolist() == [0, 1, 2, 3]
    # As in sets with k = 1: always candidate 0.
    assert layout.to_user_index(np.arange(3)).tolist() == [0, 0, 0]


def test_contiguous_prompts_need_no_order():
    # X is then read in slices, without a copy.
    assert layout_of(["b", "b", "a", "c", "c"]).order is None
    assert layout_of(["b", "a", "b", "c", "c"]).order is not None
