"""Records of candidates: texts of messages, likelihoods and entropies."""

import numpy as np
import pytest
from scipy.special import entr

from skqprobe._backends.answers import read_completions
from skqprobe.serve._draw import Candidate
from skqprobe.serve._record import alternatives_needed, make_record


def candidate(choice, as_chat=True):
    (content,) = read_completions({"choices": [choice]}, as_chat)
    return Candidate({}, choice, content)


def token(log_prob, *others):
    top = [{"logprob": float(value)} for value in (log_prob, *others)]
    return {"logprob": float(log_prob), "top_logprobs": top}


def test_columns_of_log_probabilities():
    tokens = [token(*np.log([0.5, 0.25])), token(*np.log([0.9, 0.1]))]
    choice = {"message": {"content": "ab"}, "logprobs": {"content": tokens}}
    record = make_record("x", [candidate(choice)], True)
    log_probs = np.log([0.5, 0.9])
    assert record["log_likelihoods"] == [pytest.approx(log_probs.sum())]
    assert record["mean_log_likelihoods"] == [pytest.approx(log_probs.mean())]
    assert record["min_log_likelihoods"] == [log_probs.min()]
    assert record["n_tokens"] == [2]
    # The third quarter of the first token is one more outcome.
    expected = (entr([0.5, 0.25, 0.25]).sum() + entr([0.9, 0.1]).sum()) / 2
    assert record["mean_entropies"] == [pytest.approx(expected)]


def test_columns_of_the_completions_endpoint():
    log_probs = {
        "token_logprobs": [-0.5],
        "top_logprobs": [{"a": np.log(0.5), "b": np.log(0.5)}],
    }
    choice = {"text": "a", "logprobs": log_probs}
    record = make_record("x", [candidate(choice, as_chat=False)], True)
    assert record["log_likelihoods"] == [-0.5]
    assert record["mean_entropies"] == [pytest.approx(np.log(2))]


def test_an_unknown_number_is_nan():
    choices = [
        {"message": {"content": "ab"}, "logprobs": None},
        {"message": {"content": ""}, "logprobs": None},
    ]
    record = make_record("x", [candidate(choice) for choice in choices], True)
    np.testing.assert_array_equal(record["log_likelihoods"], [np.nan, 0.0])
    np.testing.assert_array_equal(record["mean_entropies"], [np.nan, np.nan])
    assert "log_likelihoods" not in make_record("x", [candidate(choices[0])], False)


def test_messages_become_texts():
    call = {"id": "1", "function": {"name": "f"}}
    image = {"type": "image_url", "image_url": {"url": "http://x"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    prompt = make_record(messages, [], False)["prompt"]
    assert [message["content"] for message in prompt] == [
        "see",
        '[{"function": {"name": "f"}, "id": "1"}]',
        "3",
    ]
    assert messages[1]["content"] is None


def test_half_a_character_in_a_prompt_is_replaced():
    messages = [{"role": "user", "content": "cut \ud83d"}]
    assert make_record(messages, [], False)["prompt"][0]["content"] == "cut \ufffd"
    assert make_record("cut \ud83d", [], False)["prompt"] == "cut \ufffd"
    assert messages[0]["content"] == "cut \ud83d"  # what goes upstream


def test_alternatives_needed():
    assert alternatives_needed([]) == alternatives_needed(["hidden_states"]) == 0
    assert alternatives_needed(["n_tokens"]) == 1
    assert alternatives_needed(["n_tokens", "mean_entropies"]) == 20
