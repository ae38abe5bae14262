"""The log: answers, rewards, and the training data that is read from them."""

import os
import stat

import numpy as np
import pytest
from serving import make_pipeline_of_a

from skqprobe.generators import load_records, stack_embeddings


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "answers.jsonl"


def reward(client, answer, reward, **fields):
    body = {"id": answer.json()["id"], "reward": reward, **fields}
    return client.post("/v1/feedback", body)


def test_answers_and_rewards_are_training_data(make_client, path):
    client = make_client(log=path, random_state=0, temperature=2.0)
    answers = [client.chat(messages=[{"role": "user", "content": w}]) for w in "xyz"]
    for i in 0, 2:
        assert reward(client, answers[i], i + 0.5).status_code == 200
    assert reward(client, answers[0], 4).status_code == 200  # the last one counts
    data = load_records(path)
    assert [record["id"] for record in data.records] == [
        answer.json()["id"] for answer in answers
    ]
    for word, record, answer in zip("xyz", data.records, answers, strict=True):
        assert record["prompt"] == [{"role": "user", "content": word}]
        assert len(record["completions"]) == 8
        chosen = record["chosen"]
        (choice,) = answer.json()["choices"]
        assert choice["message"]["content"] == record["completions"][chosen]
        proba = record["probabilities"]
        assert proba.sum() == pytest.approx(1) and (proba > 0).all()
        assert record["chosen_probability"] == proba[chosen]
        assert float(answer.headers["x-skqprobe-score"]) == pytest.approx(
            record["values"][chosen], rel=1e-5
        )
    rows = np.flatnonzero(data.asked)
    assert data.groups[rows].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.y[rows], [4, np.nan, 2.5])
    make_pipeline_of_a(missing="ignore").fit(
        data.records, [record["rewards"] for record in data.records]
    )


def test_embeddings_can_be_logged_in_place_of_texts(make_client, path):
    pipeline = make_pipeline_of_a()
    client = make_client(pipeline, log=path, log_content="embeddings")
    client.chat()
    (record,) = load_records(path).records
    assert record["completions"] == [""] * 8
    X = stack_embeddings([record], "embeddings")
    np.testing.assert_array_equal(X[0, :, 0], [2, 0, 5, 1, 3, 4, 7, 6])
    np.testing.assert_array_equal(
        pipeline[-1].decision_function(X)[0], record["values"]
    )
    assert b"aaaa" not in path.read_bytes()


def test_each_of_several_choices_has_a_reward(make_client, path):
    client = make_client(log=path)
    answer = client.chat(n=2)
    assert reward(client, answer, 0, index=1).status_code == 200
    assert reward(client, answer, 1).status_code == 200
    assert reward(client, answer, 1, index=2).status_code == 404
    data = load_records(path)
    assert data.y[6] == 1 and data.y[7] == 0 and np.isnan(data.y[:6]).all()


def test_a_server_that_starts_again_continues_the_log(make_client, path, upstream):
    client = make_client(log=path)
    first = client.chat()
    client.close()
    again = make_client(log=path)
    second = again.chat()
    assert reward(again, first, 1).status_code == 200
    assert reward(again, second, 0).status_code == 200
    data = load_records(path)
    assert data.y[data.asked].tolist() == [1, 0]


def test_only_this_user_can_read_the_log(make_client, path):
    before = os.umask(0)
    try:
        make_client(log=path).chat()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_one_server_writes_a_log(make_client, path):
    make_client(log=path)
    with pytest.raises(RuntimeError, match="is being written by process"):
        make_client(log=path)


BAD = [
    ({"reward": 1}, 400),
    ({"id": "no-such", "reward": 1}, 404),
    ({"id": 3, "reward": 1}, 400),
    ({"reward": None}, 400),
    ({"reward": "good"}, 400),
    ({"reward": {}}, 400),
    ({"reward": 10**400}, 400),
    ({"reward": 1, "index": -1}, 400),
    ({"reward": 1, "index": "0"}, 400),
    ({"reward": {"a": 1}}, 400),  # the others are numbers
    ({"reward": [1, 2]}, 400),
]


@pytest.mark.parametrize(("body", "status"), BAD)
def test_bad_feedback_is_refused(make_client, path, body, status):
    client = make_client(log=path)
    answer = client.chat()
    reward(client, answer, 1)
    before = path.read_bytes()
    body = body if body == {"reward": 1} else {"id": answer.json()["id"], **body}
    found = client.post("/v1/feedback", body)
    assert found.status_code == status and found.json()["error"]["message"]
    assert client.post("/v1/feedback", content=b'{"id": "x", "reward": NaN}').is_error
    assert path.read_bytes() == before


def test_rewards_may_have_names(make_client, path):
    client = make_client(log=path)
    answer = client.chat()
    assert reward(client, answer, {"right": 1, "short": 0.5}).status_code == 200
    assert reward(client, answer, 1).status_code == 400
    assert load_records(path).objective_names == ["right", "short"]


def test_without_a_log_there_is_no_feedback(client):
    answer = client.post("/v1/feedback", {"id": "x", "reward": 1})
    assert answer.status_code == 404 and "--log" in answer.text


def test_an_answer_is_sent_even_if_it_cannot_be_logged(make_client, path, monkeypatch):
    client = make_client(log=path)
    first = client.chat()
    path.write_bytes(b"changed")
    assert client.chat().status_code == 200
    assert reward(client, first, 1).status_code == 503
    assert 'skqprobe_logged_total{kind="lost"} 2.0' in client.get("/metrics").text


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted")
def test_a_log_that_was_deleted_is_lost(make_client, path):
    client = make_client(log=path)
    first = client.chat()
    path.unlink()
    assert client.chat().status_code == 200
    assert reward(client, first, 1).status_code == 503
    assert 'skqprobe_logged_total{kind="lost"} 2.0' in client.get("/metrics").text


def test_ids_of_old_answers_are_dropped(make_client, path, monkeypatch):
    monkeypatch.setattr("skqprobe.serve._log.MAX_ANSWERS", 2)
    client = make_client(log=path)
    answers = [client.chat() for _ in range(3)]
    found = [reward(client, answer, 1).status_code for answer in answers]
    assert found == [404, 200, 200]
