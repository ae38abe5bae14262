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
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_process import kill_often
from sklearn import config_context, get_config
from sklearn.preprocessing import FunctionTransformer

from skqprobe import QProbePolicy
from skqprobe.embedders import flatten_records
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
    assert np.isfinite(load_records(path).y).all()  # the rewards were finished
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
        calls = []

        def reward(*args, calls=calls):
            calls.append(args)
            return length(*args)

        assert_same(in_order(prompts_of(2), Toy(), reward, K, path=path), whole)
        assert path.read_bytes().rstrip() == content.rstrip()
        # A line that lacks only its end is complete.
        n_kept = (content[:cut] + b"\n" * (cut in ends)).count(b"}\n")
        kept = content.split(b"\n")[:n_kept]
        assert len(calls) == 2 * K - sum(b'"reward"' in line for line in kept)


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 8])
def test_sigkill_at_any_moment_loses_only_rewards_in_progress(tmp_path, concurrency):
    outcome = kill_often(tmp_path, 5, concurrency, seed=concurrency)
    assert outcome.n_kills >= 5
    assert outcome.n_lost_at_once <= concurrency


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (None, "TypeError: .*NoneType"),
        ("1", "TypeError: .*str"),
        ([1, [2]], "TypeError: .*list"),
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


@pytest.mark.parametrize("concurrency", [1, 2])
def test_rewards_have_the_settings_of_the_caller(concurrency):
    variable = ContextVar("variable")

    def reward(item, completion):
        return get_config()["enable_metadata_routing"] + variable.get()

    with config_context(enable_metadata_routing=True):
        variable.set(2)
        records = collect(["a"], Toy(), reward, K, reward_concurrency=concurrency)
    assert records[0]["rewards"] == [3.0] * K


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
        ({"reward_concurrency": 0}, "reward_concurrency must be an integer of 1 or"),
        ({"reward_concurrency": True}, "reward_concurrency must be an integer of 1 or"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip'; got 'ignore'"),
        ({"reward_version": 0.5}, "reward_version must be a str, an int or None; got"),
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


def test_an_asynchronous_generator():
    class Asynchronous(Toy):
        async def sample(self, prompt, k):
            return Toy.sample(self, prompt, k)

    message = r"^Asynchronous\.sample must return a record, but it is an async function"
    with pytest.raises(TypeError, match=message):
        Asynchronous().generate(["a"], K)
    with pytest.raises(TypeError, match=message):
        collect(["a"], Asynchronous(), length, K)


def test_an_argument_that_a_generator_does_not_store():
    class Forgetful(Toy):
        def __init__(self, model, progress=False):
            self.progress = progress

    message = r"^Forgetful has no attribute 'model'\. .* name: self\.model = model\.$"
    with pytest.raises(AttributeError, match=message):
        Forgetful("m").generate(["a"], K)
    with pytest.raises(AttributeError, match=message):
        collect(["a"], Forgetful("m"), length, K)


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
        (record,) = collect(["a"], Given(), length, len(texts), path=path)
        assert record["completions"] == texts
        assert record["states"].dtype == array.dtype
        assert record["states"].shape == array.shape
        assert record["states"].tobytes() == array.tobytes()


def test_rewards_of_another_version_are_not_mixed(path):
    def resume(reward, n=2, **options):
        return in_order(prompts_of(n), Toy(), reward, K, path=path, **options)

    resume(lambda *_: 1, reward_version="1")
    assert load_records(path).reward_version == "1"
    content = path.read_bytes()
    for version in (None, "2"):
        message = f"reward_version was '1', is {version!r}.*pass rescore=True"
        with pytest.raises(ValueError, match=message):
            resume(lambda *_: 2, reward_version=version)
        assert path.read_bytes() == content
    asked = resume(lambda *_: 1, reward_version="1", n=3)
    records = resume(lambda *_: 2, reward_version="2", n=3, rescore=True)
    assert [record["rewards"] for record in records] == [[2.0] * K] * 3
    assert [r["completions"] for r in records] == [r["completions"] for r in asked]
    assert_same(resume(Flaky(), reward_version="2", n=3), records)
    assert load_records(path).reward_version == "2"


def test_rescore_uses_the_present_reward_and_resumes(path):
    asked = []

    def resume(reward, **options):
        return in_order(
            prompts_of(3), Toy(asked=asked), reward, K, path=path, **options
        )

    resume(lambda *_: 1)
    with pytest.raises(KeyboardInterrupt):
        resume(
            Flaky({**dict.fromkeys(range(4), 2), 4: KeyboardInterrupt()}), rescore=True
        )
    assert np.isfinite(load_records(path).y).sum() == 4  # none of the old ones
    reward = Flaky(dict.fromkeys(range(9), 2))
    records = resume(reward)
    assert [record["rewards"] for record in records] == [[2.0] * K] * 3
    assert len(reward.calls) == 5 and len(asked) == 3
    assert resume(lambda *_: 3, rescore=True)[0]["rewards"] == [3.0] * K
    # Without a file, nothing is recorded.
    assert in_order(["a"], Toy(), length, K, rescore=True)[0]["rewards"] != [None] * K


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "b", "answer": 2},
        {"prompt": "b", "answer": 1.0},
        {"prompt": "b", "answer": 1, "more": None},
        {"prompt": "b"},
        "b",
    ],
)
def test_an_item_that_has_changed_is_not_scored_by_the_old_one(path, changed):
    items = [{"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 1}]
    answers = []

    def reward(item, completion):
        answers.append(item)
        return 1

    first = in_order(items, Toy(), reward, K, path=path)
    content = path.read_bytes()
    items[1] = changed
    message = r"another item in the place of prompts\[1\].*pass rescore=True"
    with pytest.raises(ValueError, match=message):
        in_order(items, Toy(), reward, K, path=path)
    assert path.read_bytes() == content
    answers.clear()
    records = in_order(items, Toy(), reward, K, path=path, rescore=True)
    assert answers == [items[0]] * K + [changed] * K
    assert records[1].get("item", changed) == changed
    assert records[1]["completions"] == first[1]["completions"]
    assert_same(in_order(items, Toy(), reward, K, path=path), records)


class Picky(Toy):
    """Refuse some prompts, and ask for `asked`."""

    def sample(self, prompt, k):
        record = super().sample(prompt, k)
        if "no" in str(prompt):
            raise PromptRefused("the content filter")
        if "bad" in str(prompt):
            raise LookupError("a bug")
        return record


CHAT = [{"role": "user", "content": "say no"}]


def test_refused_prompts_are_named_after_the_others_are_finished(path):
    prompts, asked = ["no 0", "a", CHAT, "b"], []
    message = (
        r"2 of 4 prompts failed\. prompts\[0\] \('no 0'\) was refused: the content "
        r"filter; prompts\[2\] \('say no'\) was refused.*\.jsonl.*on_error='skip'"
    )
    for n_asked in (4, 2):  # those that were refused are asked for again
        with pytest.raises(PromptRefused, match=message):
            collect(prompts, Picky(asked=asked), length, K, path=path)
        assert len(asked) == n_asked
        asked.clear()
    size = path.stat().st_size
    data = load_records(path)
    assert [record["prompt"] for record in data.records] == ["a", "b"]
    assert sorted(set(data.groups)) == [1, 3] and np.isfinite(data.y).all()
    assert data.refused == dict.fromkeys([0, 2], "the content filter")
    with pytest.warns(RuntimeWarning, match="2 of 4 prompts failed.*were left out"):
        records = collect(
            prompts, Picky(asked=asked), length, K, path=path, on_error="skip"
        )
    assert asked == [] and path.stat().st_size == size
    assert [record["prompt"] for record in records] == ["a", "b"]
    # They are accepted now.
    assert len(collect(prompts, accepting(Picky), length, K, path=path)) == 4
    assert load_records(path).refused == {}


def accepting(cls):
    """A generator with the same settings that refuses nothing."""
    return type(cls.__name__, (Toy,), {"__module__": cls.__module__})()


def test_refused_prompts_without_a_file():
    asked = []
    with pytest.raises(PromptRefused, match=r"prompts\[1\] \('no'\) was refused"):
        collect(["a", "no", "b"], Picky(asked=asked), length, K)
    assert asked == ["a", "no"]  # the others would be lost
    with pytest.warns(RuntimeWarning, match=r"prompts\[1\] \('no'\) was refused"):
        records = collect(["a", "no", "b"], Picky(), length, K, on_error="skip")
    assert [record["prompt"] for record in records] == ["a", "b"]
    with pytest.warns(RuntimeWarning, match="7 of 7 prompts failed.*and 2 more"):
        assert collect(["no"] * 7, Picky(), length, K, on_error="skip") == []


@pytest.mark.parametrize("with_file", [True, False])
def test_entries_that_are_no_prompts_may_be_left_out(path, with_file):
    no_content = [{"role": "user"}]
    prompts = ["a", "\ud800", no_content, {"prompt": "b\udfff"}, {"prompt": 3}, "b"]
    path = path if with_file else None
    message = (
        r"4 of 6 prompts failed\. prompts\[1\] \('\\ud800'\) failed: .* surrogate .*"
        r"prompts\[2\].* 'role' and 'content'.*prompts\[3\].*prompts\[4\]"
    )
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=message):
            records = collect(prompts, Toy(), length, K, path=path, on_error="skip")
        assert [record["prompt"] for record in records] == ["a", "b"]
    with pytest.raises(ValueError, match=r"prompts\[1\] is not valid Unicode"):
        collect(prompts, Toy(), length, K, path=path)


def test_reasons_that_end_with_a_period():
    class Strict(Toy):
        def sample(self, prompt, k):
            raise PromptRefused("the policy.") if prompt == "a" else ValueError("No.")

    with pytest.warns(RuntimeWarning, match=r"the policy; .*: No\. They were left out"):
        collect(["a", "b"], Strict(), length, K, on_error="skip")


def test_generate_names_the_prompt():
    with pytest.raises(PromptRefused, match=r"prompts\[1\] \('say no'\) was refused"):
        Picky().generate(["a", CHAT], K)
    with pytest.raises(LookupError) as caught:
        Picky().generate([{"prompt": "bad"}], K)
    assert caught.value.__notes__ == ["prompts[0] ('bad') failed: LookupError: a bug"]


def test_other_errors_of_a_generator_may_be_skipped_and_are_tried_again(path):
    prompts, asked = ["a", "bad", "b"], []
    with pytest.raises(LookupError, match="a bug") as caught:
        collect(prompts, Picky(), length, K, path=path)
    assert caught.value.__notes__ == ["prompts[1] ('bad') failed: LookupError: a bug"]
    assert len(load_records(path).records) == 1
    for n_asked in (2, 1):
        asked.clear()
        message = (
            r"prompts\[1\] \('bad'\) failed: LookupError: a bug\. They were left out"
        )
        with pytest.warns(RuntimeWarning, match=message):
            records = collect(
                prompts, Picky(asked=asked), length, K, path=path, on_error="skip"
            )
        assert len(asked) == n_asked
        assert [record["prompt"] for record in records] == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "a"}, "must return the prompt as it is, ' a'; got 'a'"),
        ({"completions": "abc"}, "must return 'completions' as a list of texts"),
        ({"completions": [1, 2, 3]}, "must return 'completions' as a list of texts"),
        ({"position": 3}, "returned the key 'position'"),
        ({"rewards": [1, 1, 1]}, "returned the key 'rewards'"),
        ({"states": np.array([["a", 1]], dtype=object)}, "cannot be written.*'|O'"),
        ({"states": object()}, "cannot be written to path.*object"),
        (
            None,
            "must return a dict with the keys 'prompt' and 'completions'; got NoneT",
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_not_written(path, change, message):
    class Changed(Toy):
        def sample(self, prompt, k):
            record = super().sample(prompt, k)
            if prompt == "b":
                return record
            return None if change is None else record | change

    reward = Flaky()
    with pytest.raises(ValueError, match=message):
        collect(["b", " a"], Changed(), reward, K, path=path)
    assert len(load_records(path).records) == 1
    assert {item for item, _ in reward.calls} == {"b"}


def test_a_generator_with_other_records_than_asked_for():
    class Twice(Toy):
        def sample_each(self, prompts, k):
            yield from super().sample_each(prompts, k)
            yield 0, self.sample(prompts[0], k)

    class Less(Toy):
        def sample_each(self, prompts, k):
            return super().sample_each(prompts[:1], k)

    with pytest.raises(
        ValueError, match=r"Twice returned two records for prompts\[0\]"
    ):
        collect(prompts_of(2), Twice(), length, K)
    with pytest.raises(ValueError, match=r"Less returned no record for prompts\[1\]"):
        collect(prompts_of(2), Less(), length, K)


def test_items_with_any_keys_and_numbers_are_read_back(path):
    items = [
        {"prompt": "a", "base64": "", "dtype": "f4", "shape": [0]},
        {"prompt": "b", 1: "one", "1": "text"},
        {"prompt": "c", "limit": float("nan"), "position": float("-inf")},
        {"prompt": "d", "states": np.ones((2, 2))},
    ]
    for _ in range(2):
        records = collect(items, Toy(), Flaky(), K, path=path)
        for record, item in zip(records, items, strict=True):
            np.testing.assert_equal(record["item"], item)
    for line in path.read_bytes().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_completions_that_were_cut_off_are_reported_once(path):
    class Cut(Toy):
        def sample(self, prompt, k):
            reasons = (
                ["length", "content_filter", None]
                if prompt == "prompt 0"
                else ["stop"] * k
            )
            return super().sample(prompt, k) | {"finish_reasons": reasons}

    with pytest.warns(
        RuntimeWarning, match=r"2 of 6 completions were .* 'length' \(1\), 'content_f"
    ) as caught:
        collect(prompts_of(2), Cut(), length, K, path=path)
    assert [warning.filename for warning in caught] == [__file__]
    collect(prompts_of(2), Cut(), length, K, path=path)  # nothing new
    collect(prompts_of(2)[1:], Cut(), length, K)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_rows_of_a_data_frame_are_items(library, path):
    frame = pytest.importorskip(library).DataFrame(
        {"answer": [1, 2], "prompt": ["a", "b"]}
    )
    items = [{"answer": 1, "prompt": "a"}, {"answer": 2, "prompt": "b"}]
    for _ in range(2):
        records = collect(frame, Toy(), Flaky(), K, path=path)
        assert [record["item"] for record in records] == items
        assert [record["prompt"] for record in records] == ["a", "b"]
    assert [r["prompt"] for r in Toy().generate(frame, K)] == ["a", "b"]
    assert_same(collect(items, Toy(), Flaky(), K, path=path), records)
    column = collect(frame["prompt"], Toy(), Flaky(), K)
    assert [record["prompt"] for record in column] == ["a", "b"]


def test_data_frames_that_are_no_prompts_are_refused():
    pandas = pytest.importorskip("pandas")
    frames = [
        pandas.DataFrame({"text": ["a"]}),
        pandas.DataFrame([["a", "b"]], columns=["prompt", "prompt"]),
        pandas.DataFrame([["a", 1, 2]], columns=["prompt", "x", "x"]),
    ]
    for frame in frames:
        with pytest.raises(ValueError, match="needs the column 'prompt'"):
            collect(frame, Toy(), length, K)
    with pytest.raises(ValueError, match=r"prompts\[1\]\['prompt'\] must be a text"):
        collect(pandas.DataFrame({"prompt": ["a", None]}), Toy(), length, K)


def test_messages_in_parts_are_texts():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    chat = [{"role": "user", "content": parts}]
    whole = [{"role": "user", "content": "Hello"}]
    reward = Flaky()
    (record,) = collect([chat], Toy(), reward, K)
    assert record["prompt"] == whole and reward.calls[0][0] is chat
    assert record["completions"] == Toy().sample(whole, K)["completions"]
    chat[0]["content"] = [{"type": "image_url", "image_url": {}}]
    with pytest.raises(ValueError, match=r"prompts\[0\] has a part that is not a text"):
        collect([chat], Toy(), length, K)


def add(text, end):
    return text + end


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda text: text + "a", lambda text: text + "b"),
        (partial(add, end="a"), partial(add, end="b")),
    ],
    ids=["lambda", "partial"],
)
def test_functions_of_a_generator_are_compared_by_what_they_do(tmp_path, one, other):
    class FromFunction(BaseGenerator):
        def __init__(self, function):
            self.function = function

        def sample(self, prompt, k):
            return {"prompt": prompt, "completions": [self.function(prompt)] * k}

    def reward(prompt, completion):
        return float(len(completion))

    path = tmp_path / "records.jsonl"
    for _ in range(2):
        collect(["text"], FromFunction(one), reward, k=2, path=path)
    with pytest.raises(ValueError, match="different settings"):
        collect(["text"], FromFunction(other), reward, k=2, path=path)


# Rewards of selected completions only


def calls_of(**options):
    """Collect, and return the records and the rewarded (prompt, completion) pairs."""
    calls = []

    def reward(item, completion):
        calls.append((item, completion))
        return len(calls)

    return in_order(prompts_of(5), Toy(), reward, k=6, **options), calls


class States:
    """Embedder that reads the captured likelihoods."""

    def transform(self, records):
        return np.stack([r["log_likelihoods"][:, None] for r in records])


@pytest.mark.parametrize("embedder", [None, States()])
def test_only_selected_completions_are_rewarded(path, embedder):
    options = {"n_rewards": 2, "embedder": embedder}
    records, calls = calls_of(path=path, **options)
    for record in records:
        asked = record["asked"]
        assert asked == sorted(set(asked)) and len(asked) == 2
        known = [j for j, reward in enumerate(record["rewards"]) if reward is not None]
        assert known == asked
        assert "errors" not in record
        if embedder is None:
            assert record["asked_probability"] == pytest.approx(1 / 3)
        else:
            assert "asked_probability" not in record
            values = record["log_likelihoods"]
            assert asked == sorted([np.argmax(values), np.argmin(values)])
    expected = [(r["prompt"], r["completions"][j]) for r in records for j in r["asked"]]
    assert calls == expected
    again, calls = calls_of(path=path, **options)
    assert calls == []
    assert [r["rewards"] for r in again] == [r["rewards"] for r in records]
    in_memory, _ = calls_of(**options)
    assert [r["asked"] for r in in_memory] == [r["asked"] for r in records]


def test_random_selection_varies_and_is_uniform():
    def reward(item, completion):
        return 0.0

    prompts = prompts_of(600)
    records = collect(prompts, Toy(), reward, k=4, n_rewards=1, reward_concurrency=1)
    counts = np.bincount([r["asked"][0] for r in records], minlength=4)
    assert counts.min() > 110  # of 150; the standard deviation is 11


def test_a_resumed_run_asks_for_failed_rewards_only(path):
    def fail_once(item, completion, seen=[]):  # noqa: B006
        seen.append(completion)
        if len(seen) == 2:
            raise RuntimeError("not now")
        return 1.0

    options = {"k": 4, "path": path, "n_rewards": 2}
    with pytest.warns(RuntimeWarning, match="1 of 6 rewards failed"):
        records = in_order(prompts_of(3), Toy(), fail_once, **options)
    missing = records[0]["rewards"].count(None)
    assert missing == 3 and list(records[0]["errors"]) == [records[0]["asked"][1]]
    calls = []

    def reward(item, completion):
        calls.append(completion)
        return 2.0

    records = in_order(prompts_of(4), Toy(), reward, **options)  # one more prompt
    assert len(calls) == 3
    assert records[0]["rewards"].count(None) == 2 and "errors" not in records[0]
    rescored = in_order(prompts_of(4), Toy(), reward, **options, rescore=True)
    assert len(calls) == 11
    assert [r["asked"] for r in rescored] == [r["asked"] for r in records]


def test_a_file_with_another_n_rewards_is_refused(path):
    calls_of(path=path, n_rewards=2)
    before = path.read_bytes()
    for other in (None, 3):
        with pytest.raises(ValueError, match=f"n_rewards was 2, is {other}"):
            calls_of(path=path, n_rewards=other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("n_rewards", [0, 7, 2.0, True, "2"])
def test_n_rewards_must_be_a_count(n_rewards):
    with pytest.raises(ValueError, match="n_rewards must be None or an integer from 1"):
        calls_of(n_rewards=n_rewards)


def test_embedder_must_be_a_transformer_and_needs_n_rewards():
    with pytest.raises(ValueError, match="embedder must be a transformer of records"):
        calls_of(n_rewards=2, embedder=len)
    with pytest.raises(ValueError, match="embedder has no effect without n_rewards"):
        calls_of(embedder=States())


@pytest.mark.parametrize("shape", [(6, 2), (1, 9, 2), (2, 6, 2)])
def test_embedder_must_return_one_set(shape):
    embedder = FunctionTransformer(lambda records: np.ones(shape))
    with pytest.raises(ValueError, match=r"must be \(1, 6, n_features\)"):
        calls_of(n_rewards=2, embedder=embedder)


def test_rewards_that_were_not_asked_for_have_weight_0(path):
    records, _ = calls_of(path=path, n_rewards=2)
    data = load_records(path)
    assert data.asked.dtype == bool and data.asked.sum() == 10
    np.testing.assert_array_equal(np.isfinite(data.y), data.asked)
    X = np.concatenate([record["hidden_states"] for record in data.records])
    X += np.random.default_rng(0).normal(size=X.shape)
    policy = QProbePolicy().fit(X, data.y, data.groups, sample_weight=data.asked)
    same = QProbePolicy(missing="ignore").fit(X, data.y, data.groups)
    np.testing.assert_array_equal(policy.coef_, same.coef_)
    pairs, _, y = flatten_records(records)  # without a warning: none failed
    assert len(pairs) == len(y) == 10
