"""collect and the file of its records."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skqprobe.generators import (
    BaseGenerator,
    PromptRefused,
    collect,
    load_records,
)

K = 3


in_order = partial(collect, reward_concurrency=1)
"""Collect, with calls of the reward in the order of the completions."""


class Toy(BaseGenerator):
    """Completions that depend only on the prompt; copies share `asked`."""

    inert_parameters = frozenset({"progress", "asked", "fail_on"})

    def __init__(self, temperature=1.0, fail_on=None, asked=None, progress="auto"):
        self.temperature = temperature
        self.fail_on = fail_on
        self.asked = asked
        self.progress = progress

    def sample(self, prompt, k):
        if prompt == self.fail_on:
            raise ConnectionError("the server is gone")
        if self.asked is not None:
            self.asked.append(prompt)
        draw = random.Random(str(prompt))
        return {
            "prompt": prompt,
            "completions": [f"\n{draw.random()} \ud800 \u2028 é" for _ in range(k)],
            "log_likelihoods": np.array([draw.random() for _ in range(k)], "float32"),
            "hidden_states": np.array([[draw.random()] * 2] * k, "float32"),
        }


def length(item, completion):
    return len(completion)


def prompts_of(n):
    return [f"prompt {i}" for i in range(n)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


def entries_of(path, key):
    """Return the lines of the file that have a key."""
    lines = map(json.loads, path.read_bytes().splitlines())
    return [line for line in lines if key in line]


def assert_same(records, others):
    assert len(records) == len(others)
    for one, other in zip(records, others, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_equal(value, other[key])


class Flaky:
    """A reward with given outcomes, which stores its calls."""

    def __init__(self, outcomes=()):
        self.outcomes = dict(outcomes)
        self.calls = []

    def __call__(self, item, completion):
        self.calls.append((item, completion))
        outcome = self.outcomes.get(len(self.calls) - 1, 1)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def test_records_without_a_file():
    records = collect(prompts_of(2), Toy(), length, K)
    assert [record["prompt"] for record in records] == prompts_of(2)
    settings = {"class": f"{Toy.__module__}.Toy", "temperature": 1.0}
    for record in records:
        assert record["rewards"] == [len(text) for text in record["completions"]]
        assert record["hidden_states"].shape == (K, 2)
        assert record["generator"] == settings
        assert "errors" not in record and "item" not in record


@pytest.mark.parametrize("with_file", [False, True])
def test_the_reward_gets_the_item_as_given(path, with_file):
    chat = [{"role": "user", "content": "Hello"}]
    items = ["text", chat, {"prompt": chat, "words": ("a", "b")}]
    reward = Flaky()
    records = collect(items, Toy(), reward, K, path=path if with_file else None)
    assert all(reward.calls[i * K][0] is item for i, item in enumerate(items))
    assert [record["prompt"] for record in records] == ["text", chat, chat]
    assert ["item" in record for record in records] == [False, False, True]
    assert list(records[2]["item"]["words"]) == ["a", "b"]


def test_completions_and_each_reward_are_written_at_once(tmp_path):
    path = tmp_path / "new folder" / "records.jsonl"
    n_found = []

    def reward(item, completion):
        data = load_records(path)
        assert completion in data.records[-1]["completions"]
        n_found.append((len(data.records), int(np.isfinite(data.y).sum())))
        return 0

    collect(prompts_of(3), Toy(), reward, K, path=path, reward_concurrency=1)
    assert n_found == [(1 + n // K, n) for n in range(3 * K)]


def test_it_resumes_and_gives_the_same_records(path, tmp_path):
    asked = []
    with pytest.raises(ConnectionError, match="the server is gone"):
        collect(prompts_of(5), Toy(fail_on="prompt 3"), length, K, path=path)
    first = path.read_bytes()
    assert len(load_records(path).records) == 3
    records = collect(prompts_of(5), Toy(asked=asked), length, K, path=path)
    assert asked == ["prompt 3", "prompt 4"]
    assert path.read_bytes().startswith(first)
    whole = collect(prompts_of(5), Toy(), length, K, path=tmp_path / "other.jsonl")
    assert_same(records, whole)
    # Complete: nothing is asked, scored or written.
    before = path.read_bytes()
    reward = Flaky()
    again = collect(prompts_of(5), Toy(asked=asked), reward, K, path=path)
    assert_same(again, whole)
    assert len(asked) == 2 and reward.calls == [] and path.read_bytes() == before
    # More prompts at the end.
    collect(prompts_of(6), Toy(asked=asked), length, K, path=path)
    assert asked[2:] == ["prompt 5"]


def test_a_torn_last_line_is_written_again_wherever_it_was_torn(path):
    whole = in_order(prompts_of(2), Toy(), length, K, path=path)
    content = path.read_bytes()
    ends = [at for at, byte in enumerate(content) if byte == ord("\n")]
    for cut in {*range(0, len(content), 13), *ends, *(end + 1 for end in ends)}:
        path.write_bytes(content[:cut])
        reward = Flaky()
        records = in_order(
            prompts_of(2), Toy(), lambda *a: reward(*a) * length(*a), K, path=path
        )
        assert_same(records, whole)
        assert path.read_bytes().rstrip() == content.rstrip()
        # A line that lacks only its end is complete.
        n_kept = (content[:cut] + b"\n" * (cut in ends)).count(b"}\n")
        kept = content.split(b"\n")[:n_kept]
        assert len(reward.calls) == 2 * K - sum(b'"reward"' in line for line in kept)


SCRIPT = """
import os, random, sys
import numpy as np
from skqprobe.generators import BaseGenerator, collect

class Toy(BaseGenerator):
    _parameter_constraints = {}
    def __init__(self, progress=False):
        self.progress = progress
    def sample(self, prompt, k):
        draw = random.Random(prompt)
        states = np.full((k, 400), draw.random())  # lines of many pages
        texts = [str(draw.random()) for _ in range(k)]
        return {"prompt": prompt, "completions": texts, "hidden_states": states}

log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def reward(item, completion):
    if random.random() < 0.02:
        raise OSError("no answer")
    os.write(log, (completion + "\\n").encode())  # the work is paid for
    return float(completion)

print("ready", flush=True)
collect([str(i) for i in range(400)], Toy(), reward, 3, path=sys.argv[1],
        reward_concurrency=int(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 8])
def test_sigkill_at_any_moment_loses_only_rewards_in_progress(
    path, tmp_path, rng, concurrency
):
    log = tmp_path / "log"

    def start():
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, path, log, str(concurrency)],
            stdout=subprocess.PIPE,
            cwd=".",
        )
        assert process.stdout.readline() == b"ready\n"
        return process

    def size():
        return path.stat().st_size if path.exists() else 0

    known, n_kills = {}, 0
    for _ in range(12):
        # Kill it when it has written some more lines, or soon after.
        enough = size() + rng.integers(0, 400_000)
        process = start()
        while size() < enough and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.005))
        n_kills += process.poll() is None
        process.kill()
        process.communicate()
        data = load_records(path) if path.exists() else None
        rewards = {} if data is None else dict(zip(data.texts, data.y, strict=True))
        for (prompt, text), value in rewards.items():
            assert np.isnan(value) or value == float(text)
            assert known.setdefault(text, prompt) == prompt
        assert len(rewards) == len(known)  # no completion was drawn again
        computed = log.read_text().splitlines() if log.exists() else []
        n_kept = sum(np.isfinite(value) for value in rewards.values())
        # Per kill, at most the rewards in progress were lost.
        assert 0 <= len(computed) - n_kept <= n_kills * concurrency
    assert n_kills > 3
    for _ in range(10):  # until no reward fails any more
        process = start()
        process.communicate()
        assert process.returncode == 0
        if np.isfinite(load_records(path).y).all():
            break
    data = load_records(path)
    assert [record["prompt"] for record in data.records] == [str(i) for i in range(400)]
    np.testing.assert_array_equal(data.y, [float(text) for _, text in data.texts])


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (None, "TypeError: .*NoneType"),
        ("1", "TypeError: .*str"),
        ([1], "TypeError: .*list"),
        (bytearray(b"1"), "TypeError: .*bytearray"),
        (np.complex128(1 + 1j), "TypeError: .*complex128"),
        (float("nan"), "ValueError: .*nan"),
        (float("inf"), "ValueError: .*inf"),
    ],
)
def test_a_failed_reward_is_none_and_is_reported_once(outcome, message):
    reward = Flaky({1: outcome, 5: outcome, 2: 0})
    message_of_all = r"2 of 6 rewards failed.*prompts\[0\]"
    with pytest.warns(RuntimeWarning, match=message_of_all) as caught:
        records = in_order(prompts_of(2), Toy(), reward, K)
    assert [warning.filename for warning in caught] == [__file__]
    assert records[0]["rewards"] == [1.0, None, 0.0]
    assert records[1]["rewards"] == [1.0, 1.0, None]
    assert list(records[0]["errors"]) == [1] and list(records[1]["errors"]) == [2]
    assert re.match(message, records[0]["errors"][1])


def test_rewards_of_any_numeric_type_become_floats():
    values = True, 2, 0.5, np.float32(0.5), np.int64(2), np.array(2.0), np.True_
    reward = Flaky(enumerate(values))
    (record,) = in_order(["a"], Toy(), reward, len(values))
    assert record["rewards"] == [1, 2, 0.5, 0.5, 2, 2, 1]
    assert {type(value) for value in record["rewards"]} == {float}


def test_a_resume_retries_only_the_failed_rewards(path):
    asked = []

    def resume(reward):
        return in_order(prompts_of(3), Toy(asked=asked), reward, K, path=path)

    error = TimeoutError("tests ran too long")
    with pytest.warns(RuntimeWarning, match="Call collect again"):
        first = resume(Flaky({1: error, 6: error}))
    assert first[2]["errors"] == {0: "TimeoutError: tests ran too long"}
    content = path.read_bytes()
    # One of the two fails again, in another way.
    reward = Flaky({1: None, 0: 0.5})
    with pytest.warns(RuntimeWarning, match="1 of 9 rewards failed"):
        second = resume(reward)
    assert asked == prompts_of(3)
    assert reward.calls == [
        ("prompt 0", first[0]["completions"][1]),
        ("prompt 2", first[2]["completions"][0]),
    ]
    assert second[0]["rewards"] == [1.0, 0.5, 1.0] and "errors" not in second[0]
    assert second[2]["errors"][0].startswith("TypeError")
    assert path.read_bytes().startswith(content)
    third = resume(Flaky({0: 0}))
    assert third[2]["rewards"] == [0.0, 1.0, 1.0] and "errors" not in third[2]
    assert_same(third, resume(Flaky()))
    assert [p.name for p in path.parent.iterdir()] == ["records.jsonl"]


@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_interrupt_by_a_reward_keeps_the_finished_ones(path, concurrency):
    call = {"k": K, "path": path, "reward_concurrency": concurrency}
    reward = Flaky({4: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        collect(prompts_of(3), Toy(), reward, **call)
    data = load_records(path)
    n_finished = np.isfinite(data.y).sum()
    assert len(data.records) > 0 and n_finished < len(reward.calls)
    reward = Flaky()
    collect(prompts_of(3), Toy(), reward, **call)
    assert len(reward.calls) == 3 * K - n_finished


class Failed(BaseException):
    """As that of `pytest.fail`."""


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    "error", [SystemExit(1), CancelledError(), Failed("no"), GeneratorExit()]
)
def test_other_exceptions_that_stop_a_program_are_failed_rewards(error, concurrency):
    reward = Flaky({1: error})
    with pytest.warns(RuntimeWarning, match="1 of 6 rewards failed"):
        records = collect(
            prompts_of(2), Toy(), reward, K, reward_concurrency=concurrency
        )
    (found,) = {e for r in records for e in r.get("errors", {}).values()}
    assert found == f"{type(error).__name__}: {error}"


def test_an_interrupted_retry_keeps_finished_rewards(path):
    with pytest.warns(RuntimeWarning):
        in_order(prompts_of(3), Toy(), Flaky({0: None, 8: None}), K, path=path)
    reward = Flaky({0: 7, 1: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        in_order(prompts_of(3), Toy(), reward, K, path=path)
    reward = Flaky()
    records = in_order(prompts_of(3), Toy(), reward, K, path=path)
    assert records[0]["rewards"][0] == 7 and len(reward.calls) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send on Windows")
def test_ctrl_c_does_not_wait_for_slow_rewards(path):
    script = """
import os, sys, time
from test_collect import Toy, collect
def reward(item, completion):
    if item == "prompt 1":
        os.write(1, b"slow\\n")
        time.sleep(60)
    return 1
print("ready", flush=True)
collect(["prompt 0", "prompt 1"], Toy(), reward, 3, path=sys.argv[1])
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, path],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    assert process.stdout.readline() == "slow\n"
    while not (path.exists() and np.isfinite(load_records(path).y).sum() == 3):
        time.sleep(0.01)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=8)[1]
    assert time.monotonic() - begin < 10
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert np.isfinite(load_records(path).y).sum() == 3


def test_rewards_are_computed_at_the_same_time():
    # All 8 rewards, of 8 prompts, must be in progress before one of them returns.
    together = threading.Barrier(8)

    def reward(item, completion):
        together.wait(30)
        return len(item)

    records = collect(prompts_of(8), Toy(), reward, 1, reward_concurrency=8)
    assert [record["rewards"] for record in records] == [[8.0]] * 8
    assert [record["prompt"] for record in records] == prompts_of(8)


def test_no_more_rewards_at_the_same_time_than_asked_for():
    running, most, lock = [0], [0], threading.Lock()

    def reward(item, completion):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.001)
        with lock:
            running[0] -= 1
        return 0

    collect(prompts_of(20), Toy(), reward, K, reward_concurrency=3)
    assert 1 <= most[0] <= 3
    threads = set()
    in_order(
        prompts_of(2), Toy(), lambda *_: threads.add(threading.get_ident()) or 1, 1
    )
    assert threads == {threading.get_ident()}


class AsyncReward:
    """Rewards of coroutines, all of which run in one event loop."""

    def __init__(self):
        self.loops, self.n_running, self.most = set(), 0, 0

    async def __call__(self, item, completion):
        self.loops.add(asyncio.get_running_loop())
        self.n_running += 1
        self.most = max(self.most, self.n_running)
        await asyncio.sleep(0.01)
        self.n_running -= 1
        if item == "prompt 1":
            raise SystemExit("not here")
        if item == "prompt 2":
            raise asyncio.CancelledError
        return len(completion)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_asynchronous_rewards(concurrency):
    reward = AsyncReward()
    for _ in range(2):  # a client would be used again
        with pytest.warns(RuntimeWarning, match="6 of 12 rewards failed"):
            records = collect(
                prompts_of(4), Toy(), reward, K, reward_concurrency=concurrency
            )
    assert [None in record["rewards"] for record in records] == [
        False,
        True,
        True,
        False,
    ]
    assert records[1]["errors"][0] == "SystemExit: not here"
    assert records[2]["errors"][0] == "CancelledError: "
    for i in (0, 3):
        expected = [len(text) for text in records[i]["completions"]]
        assert records[i]["rewards"] == expected
    assert len(reward.loops) == 1
    assert (reward.most == 1) if concurrency == 1 else (1 < reward.most <= concurrency)

    async def function(item, completion):
        return 2

    assert collect(["a"], Toy(), function, 1)[0]["rewards"] == [2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompts": ["prompt 0", "other"]},
            r"another prompt in the place of prompts\[1\]",
        ),
        ({"prompts": prompts_of(1)}, "more prompts than the 1 given"),
        ({"k": 4}, "3 completions per prompt, but k=4"),
        ({"generator": Toy(temperature=0.5)}, "temperature was 1.0, is 0.5"),
    ],
)
def test_a_file_of_another_collection_is_refused(path, change, message):
    settings = {"prompts": prompts_of(2), "generator": Toy(), "reward": length, "k": K}
    collect(**settings, path=path)
    content = path.read_bytes() + b'{"position": 2, "pro'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message + ".*give another path"):
        collect(**settings | change, path=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"A diary.",
        b"A diary.\nDear diary,",
        b'{"prompt": "a", "completions": []}\n',
        b"[1, 2]\n",
        b'{"position": 1\n',
        b"\xff\xfe\n",
        b"\n",
    ],
)
def test_a_file_of_another_kind_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Line 1 of .* is not a record"):
        collect(["a"], Toy(), length, K, path=path)
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(path):
    collect(prompts_of(3), Toy(), length, K, path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    with pytest.raises(ValueError, match="Line 2 of"):
        collect(prompts_of(3), Toy(), length, K, path=path)


def test_a_file_of_a_model_whose_files_have_changed_is_refused(path, tmp_path):
    class Local(Toy):
        def __init__(self, model, progress="auto"):
            super().__init__(progress=progress)
            self.model = model

    model = tmp_path / "model"
    model.write_bytes(b"1")
    (record,) = collect(["a"], Local(model), length, K, path=path)
    assert record["generator"]["model"] == str(model)
    collect(["a", "b"], Local(str(model)), length, K, path=path)
    model.write_bytes(b"12")
    with pytest.raises(ValueError, match=r"different settings: .* model_files was '"):
        collect(["a", "b"], Local(model), length, K, path=path)


def test_an_empty_list_and_an_empty_file(path):
    assert collect([], Toy(), length, K) == []
    path.touch()
    assert len(collect(["a"], Toy(), length, K, path=path)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": "a text"}, "prompts must be a list of prompts; got str"),
        ({"prompts": {"prompt": "a"}}, "prompts must be a list of prompts; got dict"),
        ({"prompts": ["a", 3]}, r"prompts\[1\] must be a text or a list of chat"),
        ({"prompts": [{"text": "a"}]}, r"prompts\[0\] is a dict without the key"),
        ({"prompts": [{"prompt": None}]}, r"prompts\[0\]\['prompt'\] must be a text"),
        ({"generator": object()}, "generator must be a generator.*got object"),
        ({"reward": 1}, "reward must be a function"),
        ({"k": 0}, "k must be an integer of 1 or more; got 0"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_drawn(change, message):
    asked = []
    good = {"prompts": ["a"], "generator": Toy(asked=asked), "reward": length, "k": K}
    with pytest.raises(ValueError, match=message):
        collect(**{**good, **change})
    assert asked == []


def test_items_that_json_does_not_support_need_no_path(path):
    items, asked = ["a", {"prompt": "b", "check": length}], []
    assert len(collect(items, Toy(), length, K)) == 2
    with pytest.raises(ValueError, match=r"prompts\[1\].*function"):
        collect(items, Toy(asked=asked), length, K, path=path)
    assert asked == []


def test_a_generator_that_gives_too_few_is_named():
    class Short(Toy):
        def sample(self, prompt, k):
            return {"prompt": prompt, "completions": ["one"]}

    with pytest.raises(ValueError, match=r"Short returned 1 completions.*k=3"):
        collect(["a"], Short(), length, K)


class Backwards(Toy):
    """Sample for all prompts at a time; the last one is ready first."""

    def sample_each(self, prompts, k):
        for number in reversed(range(len(prompts))):
            yield number, self.sample(prompts[number], k)


def test_prompts_may_be_ready_in_any_order(path):
    reward, asked = Flaky(), []
    with pytest.raises(ConnectionError):
        in_order(prompts_of(6), Backwards(fail_on="prompt 2"), reward, K, path=path)
    seen = [item for item, _ in reward.calls]
    assert seen[::K] == ["prompt 5", "prompt 4", "prompt 3"]
    entries = entries_of(path, "completions")
    assert [entry["position"] for entry in entries] == [5, 4, 3]
    records = collect(prompts_of(6), Backwards(asked=asked), reward, K, path=path)
    assert asked == ["prompt 2", "prompt 1", "prompt 0"]
    assert [record["prompt"] for record in records] == prompts_of(6)
    assert_same(records, collect(prompts_of(6), Backwards(), length, K, path=path))
    without = collect(prompts_of(6), Backwards(), length, K)
    assert [r["completions"] for r in without] == [r["completions"] for r in records]


def test_one_progress_bar(capsys):
    pytest.importorskip("tqdm")
    generator = Toy(progress=True)
    collect(prompts_of(3), generator, length, K, progress=True)
    error = capsys.readouterr().err
    assert "collect" in error and "3/3" in error and "Toy" not in error
    assert generator.progress is True
    collect(prompts_of(3), generator, length, K, progress=False)
    assert capsys.readouterr().err == ""


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_text_and_array_comes_back_from_the_file(data, tmp_path_factory):
    texts = data.draw(st.lists(st.text(st.characters(), max_size=20), min_size=1))
    shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    dtype = data.draw(st.sampled_from(["<f2", ">f4", "<f8", "<i4", "|b1"]))
    raw = data.draw(st.binary(min_size=8 * 9, max_size=8 * 9))
    itemsize = np.dtype(dtype).itemsize
    array = np.frombuffer(raw[: itemsize * shape[0] * shape[1]], dtype).reshape(shape)

    class Given(BaseGenerator):
        def __init__(self, progress=False):
            self.progress = progress

        def sample(self, prompt, k):
            return {"prompt": prompt, "completions": texts, "states": array}

    path = tmp_path_factory.mktemp("any") / "records.jsonl"
    for _ in range(2):  # drawn, then read
        (record,) = collect([texts[0]], Given(), length, len(texts), path=path)
        assert record["prompt"] == texts[0] and record["completions"] == texts
        assert record["states"].dtype == array.dtype
        assert record["states"].shape == array.shape
        assert record["states"].tobytes() == array.tobytes()
