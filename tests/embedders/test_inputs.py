"""Forms of text input, and their errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skqprobe.embedders import VectorizerEmbedder, flatten_records
from skqprobe.embedders._inputs import check_texts
from skqprobe.generators._base import check_prompts

PAIRS = [("1 + 1 =", " 2"), ("1 + 1 =", " 3"), ("2 + 2 =", " 4")]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def check(X, prompts, completions, shape=None):
    texts = check_texts(X)
    assert texts.prompts == prompts
    assert texts.completions == completions
    assert texts.shape == (shape or (len(completions),))


def series(library, *arguments, **options):
    return pytest.importorskip(library).Series(*arguments, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ["a", "bc"],
        lambda: ("a", "bc"),
        lambda: np.array(["a", "bc"]),
        lambda: np.array(["a", "bc"], dtype=object),
        lambda: np.array([["a"], ["bc"]], dtype=object),
        lambda: [["a"], ["bc"]],
        lambda: series("pandas", ["a", "bc"], index=[7, 3]),
        lambda: series("polars", ["a", "bc"]),
    ],
    ids=[
        *("list", "tuple", "str array", "object array", "column", "column of lists"),
        *("pandas", "polars"),
    ],
)
def test_texts(make):
    check(make(), [None, None], ["a", "bc"])


@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        np.array,
        lambda pairs: [list(pair) for pair in pairs],
        lambda pairs: np.array(pairs, dtype=object),
    ],
    ids=["list", "tuple", "str array", "lists", "object array"],
)
def test_pairs(container):
    check(container(PAIRS), [p for p, _ in PAIRS], [c for _, c in PAIRS])


def test_pairs_with_chat_prompts():
    check([(CHAT, "!"), ("Hi", "?")], [CHAT, "Hi"], ["!", "?"])
    check([(tuple(CHAT), "!")], [CHAT], ["!"])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    DataFrame = pytest.importorskip(library).DataFrame
    # Columns are selected by name, in any order; others are ignored.
    pairs = {"completion": ["a", "b"], "reward": [0.0, 1.0], "prompt": ["p", "q"]}
    check(DataFrame(pairs), ["p", "q"], ["a", "b"])
    check(DataFrame(pairs | {"prompt": [CHAT, CHAT]}), [CHAT, CHAT], ["a", "b"])
    check(DataFrame({"anything": ["a", "b"]}), [None, None], ["a", "b"])
    if library == "pandas":  # with an index
        check(DataFrame(pairs).iloc[::-1], ["q", "p"], ["b", "a"])
    preferences = {"rejected": ["b", "d"], "prompt": ["p", "q"], "chosen": ["a", "c"]}
    prompts, completions = ["p", "p", "q", "q"], ["a", "b", "c", "d"]
    check(DataFrame(preferences), prompts, completions, (2, 2))
    del preferences["prompt"]
    check(DataFrame(preferences), [None] * 4, completions, (2, 2))
    with pytest.raises(
        ValueError, match=r"the rejected completion of X\[1\] must be a"
    ):
        check_texts(DataFrame(preferences | {"rejected": ["b", None]}))
    with pytest.raises(ValueError, match=r"the prompt of X\[0\] must be a text"):
        check_texts(DataFrame(preferences | {"prompt": [None, "q"]}))


@pytest.mark.parametrize("container", [list, tuple, np.array])
def test_records(container):
    records = [
        {"prompt": "p", "completions": container(["a", "b"]), "rewards": [0, 1]},
        {"prompt": CHAT, "completions": container(["c", "d"])},
    ]
    prompts = ["p", "p", CHAT, CHAT]
    check(records, prompts, ["a", "b", "c", "d"], (2, 2))
    check(np.array(records), prompts, ["a", "b", "c", "d"], (2, 2))


def record(completions, prompt="p"):
    return {"prompt": prompt, "completions": completions}


PAIR = r"X\[0\] must be a \(prompt, completion\) pair"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("one text", "X must be a list of texts.* got one str. Put it into a list"),
        (b"bytes", "got one bytes"),
        (record(["a"]), "got one dict. Put it into a list"),
        ([], "X is empty"),
        (np.array([], dtype=str), "X is empty"),
        (["a", 3], r"X\[1\] must be a text; got int 3"),
        (["a", None], r"X\[1\] must be a text; got NoneType None"),
        (["a", ("p", "b")], r"X\[1\] must be a text; got tuple"),
        ([3.0, 4.0], PAIR + ".* got float 3.0"),
        ([b"ab"], PAIR + ".*got bytes"),
        (
            [("p", "a"), "b"],
            r"X\[1\] must be a \(prompt, completion\) pair like X\[0\]",
        ),
        ([("p", "a", "b")], r"X\[0\] must be a .* pair; it has 3 entries"),
        ([("p", "a"), ("p",)], r"X\[1\] must be a .* pair; it has 1 entries"),
        ([("p", "a"), ("p", 3)], r"the completion of X\[1\] must be a text; got int 3"),
        ([("p", "a"), (3, "b")], r"the prompt of X\[1\] must be a text or a list of"),
        (
            [([], "a")],
            r"the prompt of X\[0\] must be a text or a list of chat messages",
        ),
        ([([{"role": "user"}], "a")], r"keys 'role' and 'content'; got list"),
        ([(["Hi"], "a")], r"the prompt of X\[0\] must be .*'role' and 'content'"),
        (
            [([{"role": "user", "content": None}], "a")],
            r"the content of a message in the prompt of X\[0\] must be a text",
        ),
        *(
            (
                [([{"role": "user", "content": content}], "a")],
                r"The content of a message in .* of X\[0\] has a part that is not",
            )
            for content in (
                [{"type": "image_url", "image_url": {"url": "a.png"}}],
                [{"type": "text", "text": 3}],
                ["Hi"],
            )
        ),
        (
            [record(["a"]), {"prompt": "p"}],
            r"X\[1\] must be a record with the keys 'prompt' and 'completions'",
        ),
        ([record(["a"]), "b"], r"X\[1\] must be a record"),
        ([record([])], r"X\[0\]\['completions'\] must be a list"),
        ([record("ab")], r"at least one text; got str 'ab'"),
        ([record(["a", 3])], r"X\[0\]\['completions'\]\[1\] must be a text; got int 3"),
        (
            [record(["a"], 3)],
            r"X\[0\]\['prompt'\] must be a text or a list of chat messages.*got int 3",
        ),
        (
            [record(["a", "b", "c"]), record(["a"])],
            r"The records have 1 to 3 completions.*flatten_records",
        ),
        (np.ones((3, 2)), "the completion of X.0. must be a text; got float 1.0"),
    ],
)
def test_bad_input(X, message):
    with pytest.raises(ValueError, match=message):
        check_texts(X)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_bad_frames(library):
    DataFrame = pytest.importorskip(library).DataFrame
    frame = DataFrame({"prompt": ["p"], "answer": ["a"], "reward": [1]})
    with pytest.raises(ValueError, match=r"'prompt' and 'completion'.* X has .*answer"):
        check_texts(frame)
    frame = {name: ["p"] for name in ("prompt", "chosen", "rejected", "completion")}
    for names in (list(frame), list(frame)[::-1], list(frame)[1:]):
        with pytest.raises(ValueError, match="X has the column 'completion', and 'cho"):
            check_texts(DataFrame(frame)[names])
    for name in ("chosen", "rejected"):  # of a column alone, nothing is ambiguous
        rest = [other for other in frame if other != name]
        assert check_texts(DataFrame(frame)[rest]).shape == (1,)
    frame = DataFrame({"prompt": ["p", "p"], "completion": ["a", None]})
    with pytest.raises(ValueError, match=r"the completion of X\[1\] must be a text"):
        check_texts(frame)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(ValueError) as caught:
        check_texts([("p", "a"), ("p", list(range(10_000)))])
    assert len(str(caught.value)) < 200


@given(
    st.lists(
        st.tuples(st.text(), st.lists(st.text(), min_size=3, max_size=3)), min_size=1
    )
)
def test_rows_and_sets_agree(drawn):
    records = [record(completions, prompt) for prompt, completions in drawn]
    pairs, groups, y = flatten_records(records)
    embedder = VectorizerEmbedder(
        lambda texts: [[len(text), sum(map(ord, text)) % 1009] for text in texts]
    )
    sets = embedder.transform(records)
    assert sets.shape == (len(records), 3, 2)
    np.testing.assert_array_equal(embedder.transform(pairs), sets.reshape(-1, 2))
    np.testing.assert_array_equal(groups, np.repeat(np.arange(len(records)), 3))
    assert y is None


@given(
    st.lists(
        st.lists(st.tuples(st.text(), st.integers(-9, 9)), min_size=1, max_size=5),
        min_size=1,
    )
)
def test_flatten_ragged_records(drawn):
    records = [
        {
            "prompt": f"prompt {i}",
            "completions": [text for text, _ in outcomes],
            "rewards": [reward for _, reward in outcomes],
        }
        for i, outcomes in enumerate(drawn)
    ]
    pairs, groups, y = flatten_records(records)
    rows = [
        ((f"prompt {i}", text), i, reward)
        for i, outcomes in enumerate(drawn)
        for text, reward in outcomes
    ]
    assert list(zip(pairs, groups.tolist(), y.tolist(), strict=True)) == rows
    assert y.dtype == np.float64


def test_flatten_keeps_chat_prompts():
    pairs, _, _ = flatten_records([record(["a", "b"], CHAT)])
    assert pairs == [(CHAT, "a"), (CHAT, "b")]


def test_rewards_that_do_not_fit():
    first = record(["a"]) | {"rewards": [1]}
    for rewards, n_rewards in (
        ({"rewards": [1, 0, 1]}, 3),
        ({}, 0),
        ({"rewards": []}, 0),
    ):
        message = f"Record 1 has 2 completions, but {n_rewards} rewards"
        with pytest.raises(ValueError, match=message):
            flatten_records([first, record(["a", "b"]) | rewards])


def test_flatten_records_omits_failed_rewards():
    records = [
        {"prompt": "p", "completions": ["a", "b"], "rewards": [1, None]},
        {"prompt": "q", "completions": ["c"], "rewards": [None]},
        {"prompt": "r", "completions": ["d"], "rewards": [0]},
    ]
    with pytest.warns(UserWarning, match="2 of 4 rewards failed"):
        pairs, groups, y = flatten_records(records)
    assert pairs == [("p", "a"), ("r", "d")]
    assert groups.tolist() == [0, 2] and y.tolist() == [1, 0]


def test_messages_in_parts_are_texts():
    chat = [{"role": "user", "content": [{"text": "Hel"}, {"text": "lo"}], "name": "x"}]
    whole = [{"role": "user", "content": "Hello", "name": "x"}]
    check([(chat, "a")], [whole], ["a"])
    chat[0]["content"] = ["Hello"]
    with pytest.raises(ValueError, match="has a part that is not a text: str 'Hello'"):
        check_texts([(chat, "a")])


def test_containers_without_an_order_of_texts_are_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="got one set"):
        check_texts({"a", "b"})
    frame = pandas.DataFrame({"prompt": ["a"], "completions": [["b"]]})
    with pytest.raises(ValueError, match=r"records must be a list.* DataFrame"):
        flatten_records(frame)


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]
    message = {"role": "user", "content": parts, "name": "N"}
    X = check_texts([{"prompt": [message], "completions": ["a"]}])
    assert X.prompts == [[{"role": "user", "content": "Hi you", "name": "N"}]]
    assert message["content"] is parts
    assert check_prompts([[message]]) == X.prompts[:1]


def test_items_are_opened():
    item = {"prompt": "1 + 1 =", "sum": 2}
    check([(item, " 2"), ("a", "b")], ["1 + 1 =", "a"], [" 2", "b"])
    check([{"prompt": item, "completions": [" 2"]}], ["1 + 1 ="], [" 2"], (1, 1))
    with pytest.raises(ValueError, match=r"the prompt of X\[0\] must be .* got dict"):
        check_texts([({"sum": 2}, "a")])
