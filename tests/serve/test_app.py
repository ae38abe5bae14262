"""The served answers: choice, draws, untouched messages, usage, control, models."""

import pytest

from skqprobe.serve import create_app  # noqa: F401


def text_of(answer):
    return answer.json()["choices"][0]["message"]["content"]


def test_the_best_candidate_is_answered(client, upstream):
    answer = client.chat()
    assert answer.status_code == 200
    assert text_of(answer) == "hi aaaaaaa"
    assert len(upstream.requests) == 1 and upstream.requests[0]["n"] == 8
    assert answer.headers["x-skqprobe-drawn"] == "8"
    assert answer.headers["x-skqprobe-choice"] == "policy"
    assert float(answer.headers["x-skqprobe-score"]) == pytest.approx(7, abs=0.1)
