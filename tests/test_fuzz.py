"""Any input: a correct result, or an error that says what is wrong with the input.

Each target takes arguments that hypothesis draws. The tests run the same cases every
time; ``python benchmarks/fuzz.py`` runs new ones for a given time.
"""

import copy
import gzip
import json
import math
import pickle
import re
import sqlite3
import tempfile
import time
import warnings
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from openai_server import KEY, ScriptedServer, vector
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor
from skqprobe._backends.http_client import APIError
from skqprobe._backends.refusal import PromptRefused
from skqprobe.embedders import EmbeddingCache, OpenAIEmbedder, flatten_records
from skqprobe.embedders._base import BadTextsError
from skqprobe.embedders._cache import text_keys
from skqprobe.embedders._inputs import check_texts
from skqprobe.generators import BaseGenerator, OpenAIGenerator, collect, load_records
from skqprobe.io import to_json, to_safetensors
from skqprobe.losses import LOSSES
from skqprobe.preprocessing import PerCandidate

pytestmark = pytest.mark.slow

SETTINGS = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=300,
    suppress_health_check=list(HealthCheck),
)

# Texts, pairs and records

KEYS = ["prompt", "completions", "completion", "rewards", "role", "content", "x"]


def values(*more):
    """Nested values with and without a JSON type, under keys that have a meaning."""
    single = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(), max_size=3),  # surrogates too
        st.binary(max_size=3),
        st.integers(1024, 1100).map(lambda n: 2**n),  # beyond all floats
        st.sampled_from([np.float32(1), np.array("a"), np.array(1), str, list]),
    )
    return st.recursive(
        st.one_of(single, *more),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=2).map(tuple),
            st.lists(inner, max_size=3).map(as_objects),
            st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
            st.frozensets(st.integers() | st.text(max_size=1), max_size=2),
        ),
        max_leaves=8,
    )


def as_objects(entries):
    """Make a 1-D array of entries of any type."""
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


TEXT = st.text(st.characters(), max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": TEXT}),
    min_size=1,
    max_size=2,
)
REWARDS = st.lists(st.none() | st.integers() | st.floats(), min_size=2, max_size=2)


def rows(entry):
    """Lists of entries, some of which may be any value."""
    return st.lists(entry, max_size=3) | st.lists(entry | values(), max_size=3)


def records_with(prompt, completions, rewards):
    return st.fixed_dictionaries(
        {"prompt": prompt, "completions": completions}, optional={"rewards": rewards}
    )


RECORDS = rows(
    records_with(TEXT | MESSAGES, st.lists(TEXT, min_size=2, max_size=2), REWARDS)
    | records_with(TEXT, st.lists(TEXT, max_size=2), REWARDS | values())
    | records_with(TEXT | MESSAGES | values(), rows(TEXT) | values(), REWARDS)
)
TEXTS = st.one_of(
    values(),
    rows(TEXT),
    rows(st.tuples(TEXT | MESSAGES, TEXT)),
    rows(st.lists(TEXT, min_size=1, max_size=2)),
    st.lists(TEXT, min_size=1, max_size=3).map(np.array),
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(np.array),
    RECORDS,
    RECORDS.map(as_objects),
)


def check_any_texts(X):
    """Arrange X in rows, or raise an error that names X."""
    try:
        texts = check_texts(X)
    except ValueError as error:
        assert "X" in str(error) or "record" in str(error)
        return
    assert len(texts.prompts) == len(texts.completions) == math.prod(texts.shape) > 0
    assert all(isinstance(text, str) for text in texts.completions)
    plain = [prompt is None for prompt in texts.prompts]
    assert all(plain) or not any(plain)
    for prompt in texts.prompts:
        assert prompt is None or isinstance(prompt, str) or len(prompt) > 0


@contextmanager
def ignored(message):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield


def check_any_records(records):
    """Return rows with their record and reward, or raise an error."""
    try:
        with ignored(r".* rewards failed \(None\)"):
            pairs, groups, y = flatten_records(records)
    except ValueError as error:
        assert "X[" in str(error) or "ecord" in str(error)
        return
    assert len(pairs) == len(groups)
    assert groups.dtype.kind == "i" and (np.diff(groups) >= 0).all()
    for (prompt, completion), group in zip(pairs, groups, strict=True):
        assert completion in list(records[group]["completions"])
        given_prompt = records[group]["prompt"]
        assert prompt == given_prompt or prompt == list(given_prompt)
    if y is not None:
        assert y.dtype == np.float64 and len(y) == len(pairs)
        assert not np.isnan(y).any()


# Files


TOKENS = [b"\n", b"null", b"NaN", b"1e999", b"-1", b"[", b"{", b'"', b"[" * 5000, b"\0"]
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.sampled_from(["write", "write", "write", "insert", "remove", "cut"]),
        st.binary(min_size=1, max_size=8) | st.sampled_from(TOKENS),
    ),
    max_size=4,
)


def damaged(content, edits):
    """Overwrite, insert, remove or cut off bytes at positions of a file."""
    for position, how, new in edits:
        at = position % (len(content) + 1)
        end = {"write": at + len(new), "insert": at, "remove": at + position % 200}
        new = b"" if how in ("remove", "cut") else new
        content = content[:at] + new + content[end.get(how, len(content)) :]
    return content


class Echo(BaseGenerator):
    """Completions that depend only on the prompt, with an array."""

    def __init__(self, progress=False):
        self.progress = progress

    def sample(self, prompt, k):
        states = np.arange(2 * k, dtype="<f4").reshape(k, 2)
        return {
            "prompt": prompt,
            "completions": [f"{prompt}{i}" for i in range(k)],
            "hidden_states": states,
        }


PROMPTS = ["a", "b", {"prompt": "c", "answer": 1}]


def length_except_for_b(item, completion):
    if completion == "b0":
        raise ArithmeticError("no answer")
    return len(completion)


def collect_to(path):
    with ignored(".* rewards failed"):
        return collect(
            PROMPTS, Echo(), length_except_for_b, 2, path=path, reward_concurrency=1
        )


@cache
def collected():
    """Return the file that collect writes, with a reward that failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        collect_to(path)
        return path.read_bytes()


@cache
def plain():
    """Return the same records as lines of another program, with their rewards."""
    with tempfile.TemporaryDirectory() as folder:
        records = collect_to(Path(folder, "records.jsonl"))
    for i, record in enumerate(records):
        record["position"] = i
        record["hidden_states"] = record["hidden_states"].tolist()
    return records


def with_values(replaced):
    """Return a file of plain records in which some values are replaced."""
    lines = copy.deepcopy(plain())
    for number, key, value in replaced:
        lines[number][key] = value
    return to_lines(lines)


def to_lines(lines):
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


LINE_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["repeat", "swap", "remove", "join"]),
        st.integers(0, 20),
        st.integers(0, 20),
    ),
    max_size=2,
)


def rearranged(content, line_edits):
    """Repeat, swap or remove lines, or join a part of the file to its end."""
    lines = content.splitlines(keepends=True)
    for how, *places in line_edits:
        i, j = (place % max(1, len(lines)) for place in places)
        if how == "repeat":
            lines[i:i] = lines[j : j + 1]
        elif how == "swap" and lines:
            lines[i], lines[j] = lines[j], lines[i]
        elif how == "remove":
            del lines[i : i + 1]
        else:
            lines += content.splitlines(keepends=True)[j:]
    return b"".join(lines)


def json_values():
    array = st.fixed_dictionaries(
        {
            "base64": st.sampled_from(["", "AAAA", "é", 1]),
            "dtype": st.sampled_from(["<f4", "O", "(", "a5", "i4,(9,)f8", None, 3]),
            "shape": st.sampled_from([[], [3], [-1], [2, 2], "x", None]),
        }
    )
    single = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=2), array
    )
    return st.recursive(
        single,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*KEYS, "0", "class"]), inner, max_size=2)
        ),
        max_leaves=4,
    )


REPLACED = st.tuples(
    st.integers(0, 2),
    st.sampled_from([*KEYS, "position", "generator", "errors", "hidden_states"]),
    json_values(),
)
FILES = {
    "content": st.none()
    | st.none()
    | st.lists(REPLACED, max_size=2).map(with_values)
    | st.lists(json_values(), max_size=3).map(to_lines)
    | st.binary(max_size=30),
    "lines": LINE_EDITS,
    "edits": EDITS,
}
"""The content of a file, or None for one of collect, and the damage to it."""


def resume_any_file(content, lines, edits):
    """Resume from a file, or refuse it and leave it unchanged."""
    is_own = content is None
    content = damaged(rearranged(collected() if is_own else content, lines), edits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        path.write_bytes(content)
        try:
            records = collect_to(path)
        except ValueError as error:
            assert str(path) in str(error) and "give another path" in str(error)
            assert path.read_bytes() == content
            if is_own:
                assert f"Line {n_kept(content) + 1} of" in str(error)
            return
        if is_own:  # it was only cut off
            assert n_kept(content) == content.count(b"\n")
            assert [record["rewards"] for record in records] == [
                [2.0, 2.0],
                [None, 2.0],
                [2.0, 2.0],
            ]
        assert len(records) == len(PROMPTS)
        for record in records:
            assert len(record["completions"]) == len(record["rewards"]) == 2
            assert all(r is None or math.isfinite(r) for r in record["rewards"])
        # The file is complete again, and is read back.
        content = path.read_bytes()
        np.testing.assert_equal(collect_to(path), records)
        assert path.read_bytes().count(b"\n") == content.count(b"\n")
        data = load_records(path)
        rewards = [reward for record in records for reward in record["rewards"]]
        np.testing.assert_array_equal(data.y, np.array(rewards, dtype=float))
        assert path.read_bytes() == content


def n_kept(content):
    """Return the number of lines at the beginning that are those of collect."""
    pairs = zip(content.split(b"\n")[:-1], collected().split(b"\n"), strict=False)
    return next(
        (n for n, (one, other) in enumerate(pairs) if one != other),
        content.count(b"\n"),
    )


CACHED = {
    key: b"value %d" % i * (1 + i % 7)
    for i, key in enumerate(text_keys({}, [str(i) for i in range(60)]))
}


@cache
def cache_file():
    """Return a cache of several pages; it is closed, so it is one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cache.sqlite")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA page_size=512")
            connection.execute("PRAGMA journal_mode=WAL")
        EmbeddingCache(path).write(list(CACHED), list(CACHED.values()))
        return path.read_bytes()


CACHE_CASES = {
    "content": st.none() | st.none() | st.binary(max_size=200),
    "edits": EDITS,
    "methods": st.lists(
        st.sampled_from(["read", "read", "write", "len", "clear"]), max_size=3
    ),
}


def use_any_cache(content, edits, methods):
    """Read written values or nothing, or raise an error that names the file."""
    content = damaged(cache_file() if content is None else content, edits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cache.sqlite")
        path.write_bytes(content)
        stored = EmbeddingCache(path, max_bytes=100_000)
        for method in methods:
            try:
                use_cache(stored, method)
            except OSError as error:
                assert str(path) in str(error)
                assert any(w in str(error) for w in ("give another path", "try again"))


def use_cache(stored, method):
    keys = list(CACHED)
    if method == "len":
        assert len(stored) >= 0
    elif method == "clear":
        stored.clear()
        assert stored.read(keys) == []
    elif method == "write":
        stored.write(keys[:3], [CACHED[key] for key in keys[:3]])
    else:
        with ignored(".* are damaged"):
            found = stored.read(keys)
        for number, value in found:
            assert value == CACHED[keys[number]]


# Exports

NUMBERS = st.floats(width=32) | st.floats() | st.sampled_from([0.0, -0.0, 5e-324])
EXPORT_CASES = {
    "coef": st.lists(NUMBERS, min_size=1, max_size=4),
    "dtype": st.sampled_from(["float32", "float64"]),
    "intercept": NUMBERS,
    "temperature": NUMBERS | st.integers(-1, 3) | st.none(),
    "scales": st.none() | st.lists(NUMBERS, min_size=2, max_size=2),
    "metadata": st.none() | st.dictionaries(TEXT, json_values(), max_size=3) | values(),
}


def export_any_probe(coef, dtype, intercept, temperature, scales, metadata):
    """Write numbers that are read back exactly, or raise an error."""
    with np.errstate(over="ignore"):
        policy = QProbePolicy(temperature=temperature)
        policy.coef_ = np.array(coef).astype(dtype)
    policy.intercept_, policy.n_features_in_ = intercept, len(coef)
    model = policy
    if scales is not None:
        scaler = StandardScaler().fit(np.zeros((1, len(coef))))
        scaler.mean_, scaler.scale_ = (np.full(len(coef), scale) for scale in scales)
        model = make_pipeline(PerCandidate(scaler), policy)
        model[0].transformer_ = scaler
    try:
        with np.errstate(all="ignore"):
            read = json.loads(to_json(model, metadata=metadata))
    except ValueError as error:
        words = ("temperature", "metadata", "finite")
        assert any(word in str(error) for word in words)
        return
    assert np.isfinite([*read["coef"], read["intercept"], read["temperature"]]).all()
    assert read["temperature"] == temperature
    if scales is None:
        values = np.array(read["coef"], dtype=read["dtype"])
        assert values.tobytes() == policy.coef_.tobytes()
        assert repr(read["intercept"]) == repr(intercept)  # also -0.0
    assert_same_in_safetensors(read, model, metadata)


def assert_same_in_safetensors(read, model, metadata):
    try:
        from safetensors.numpy import load
    except ImportError:
        return
    with np.errstate(all="ignore"):
        content = to_safetensors(model, metadata=metadata)
    start = 8 + int.from_bytes(content[:8], "little")
    stored_json = json.loads(json.loads(content[8:start])["__metadata__"]["probe"])
    stored_json |= {name: array.tolist() for name, array in load(content).items()}
    assert repr(sorted(stored_json.items())) == repr(sorted(read.items()))  # also -0.0


# Answers of servers

CHAT = [{"role": "user", "content": "Hi"}]
HOSTILE = [
    10**400,
    -(10**400),
    math.nan,
    math.inf,
    2**63,
    True,
    "\ud800",
    "391",
    b"[" * 5000,  # not as a text
    KEY,
    "x" * 290 + KEY,
    {"message": "no", "code": 400},
    {"message": "no", "param": "n"},
    [[1.0, 2.0, 0.5]],
    [1.0, None, 0.5],
    [1.0, 10**400, 0.5],
    ["1", "2", "3"],
    [{"type": "text", "text": "391"}, "a"],
    [{"function": {"name": "f", "arguments": "[1]"}}],
]
FIELDS = ["error", "refusal", "reasoning", "tool_calls", "index", "text", "content"]
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 99),
        st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "add"]),
        st.sampled_from(FIELDS),
        st.sampled_from(HOSTILE) | json_values(),
    ),
    max_size=3,
)
ANSWER_CASES = {
    "kind": st.sampled_from(["embeddings", "completions", "chat"]),
    "changes": CHANGES,
    "edits": st.just([]) | st.just([]) | EDITS,
    "status": st.sampled_from([200] * 12 + [204, 302, 307, 400, 401, 413, 422, 500]),
    "headers": st.sampled_from(
        [{}] * 8
        + [{"Content-Type": "text/plain"}, {"Content-Type": "text/html; charset=x"}]
        + [{"Content-Encoding": value} for value in ("gzip", "br", "identity", "é")]
        + [{"Location": value} for value in ("/v1/embeddings", "http://h.x/", "[", "")]
    ),
    "zipped": st.sampled_from([False] * 9 + [True]),
}


@cache
def scripted_server():
    return ScriptedServer()


def places_of(value):
    """Yield the container and key of each value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places_of(inner)


def change_answer(answer, changes):
    """Replace, remove, repeat or add values in an answer."""
    for number, how, field, value in changes:
        places = list(places_of(answer))
        if not places:
            return
        container, key = places[number % len(places)]
        if how == "replace":
            container[key] = copy.deepcopy(value)
        elif how == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[field] = copy.deepcopy(value)
        elif how == "repeat":
            container.append(copy.deepcopy(container[key]))
        else:
            container.insert(key, copy.deepcopy(value))


def to_content(answer):
    """Return JSON, in which bytes stand for what is not JSON."""
    parts = json.dumps(answer, default=lambda value: f"<{value.decode()}>")
    return parts.replace('"<', "").replace('>"', "").encode()


def ask_any_server(kind, changes, edits, status, headers, zipped):
    """Return what is in the answer, or raise an error of one class."""
    server = scripted_server()
    body = {"input": ["four", "a"], "prompt": "p", "n": 2, "logprobs": 1}
    body["messages"] = CHAT
    path = {"chat": "/chat/completions"}.get(kind, f"/{kind}")
    answer = server.answer(path, body)
    change_answer(answer, changes)
    content = damaged(to_content(answer), edits)
    sent = gzip.compress(content) if zipped else content
    if zipped:
        headers = headers | {"Content-Encoding": "gzip"}
    server.requests.clear()
    server.script = [server.send(sent, headers, status)]
    settings = {
        "base_url": server.url,
        "max_retries": 0,
        "timeout": 5,
        "progress": False,
    }
    start = time.monotonic()
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            ignored(".* completions have no text|.* log-likelihoods are None"),
        ):
            patch.setenv("OPENAI_API_KEY", KEY)
            if kind == "embeddings":
                found = OpenAIEmbedder("model", **settings).transform(body["input"])
            else:
                drawn = OpenAIGenerator("model", log_likelihoods=True, **settings)
                prompt = CHAT if kind == "chat" else "p"
                found = drawn.generate([prompt], 2)[0]
    except (APIError, BadTextsError, PromptRefused) as error:
        assert re.match(r"OpenAI|\d of 2 texts|prompts\[0\] \(", str(error))
        assert KEY[:8] not in f"{error!r}{vars(error)}{error.__cause__!r}"
        return
    finally:
        assert time.monotonic() - start < 4
        server.script.clear()
    answered = status == 200 and (kind != "embeddings" or len(server.requests) == 1)
    if kind == "embeddings":
        check_embeddings(found, json.loads(content)["data"] if answered else None)
    else:
        choices = json.loads(content)["choices"] if answered else []
        check_completions(found, choices, kind)


def check_embeddings(found, data):
    """Check that the rows are those of an answer, or else of the next ones."""
    indices = [entry.get("index") for entry in data or []]
    if indices.count(None) == 2:
        indices = [0, 1]
    elif None in indices:  # the one that is left
        other = next(index for index in indices if index is not None)
        indices[indices.index(None)] = 1 - other
    for number, text in enumerate(["four", "a"]):
        expected = [vector(text)]
        if data is not None:
            expected = [data[indices.index(number)]["embedding"]]
        np.testing.assert_array_equal(found[[number]], np.float32(expected))
        assert np.isfinite(found[number]).all()


def text_of(choice, kind):
    """Return the text of a completion before any call of a tool."""
    is_chat = kind == "chat"
    text = (
        (choice.get("message") or {}).get("content") if is_chat else choice.get("text")
    )
    text = text or ""
    if isinstance(text, list):
        text = "".join(p if isinstance(p, str) else p.get("text") or "" for p in text)
    return text.replace("\ud800", "\ufffd")


def check_completions(found, choices, kind):
    """Check that each completion is in an answer, or else in the next one."""
    texts = {text_of(choice, kind) for choice in choices if not choice.get("error")}
    assert len(found["completions"]) == len(found["finish_reasons"]) == 2
    for text, reason, value, n_tokens in zip(
        found["completions"],
        found["finish_reasons"],
        found["log_likelihoods"],
        found["n_tokens"],
        strict=True,
    ):
        text.encode()
        said = text.partition("[{")[0].removesuffix("\n")
        assert {text, said} & texts or re.fullmatch(r"(p|Hi)/None/\d", text)
        assert reason is None or isinstance(reason, str)
        assert (value is None) == (n_tokens is None)
        assert value is None or math.isfinite(value)


TARGETS = {
    "texts": (check_any_texts, {"X": TEXTS}),
    "records": (check_any_records, {"records": RECORDS | values()}),
    "resume": (resume_any_file, FILES),
    "cache": (use_any_cache, CACHE_CASES),
    "export": (export_any_probe, EXPORT_CASES),
    "answers": (ask_any_server, ANSWER_CASES),
}
"""By name: a function that must not fail, and strategies for its arguments."""


# Estimators

OF_ALL = {"fit_intercept": st.booleans(), "random_state": st.integers(0, 9)}
OF_PROBES = {
    **OF_ALL,
    "warm_start": st.booleans(),
    "n_candidates": st.none() | st.integers(1, 3),
    "solver": st.sampled_from(["auto", "lbfgs"]),
    "alpha": st.sampled_from([1e-3, 0.1, 10.0]),
    "temperature": st.sampled_from([0.0, 0.1, 1.0, 1e6]),
}
OF_SEARCHES = {
    **OF_ALL,
    "losses": st.none() | st.lists(st.sampled_from(sorted(LOSSES)), min_size=1),
    "alphas": st.just((1.0, 0.01)),
    "temperatures": st.sampled_from([(0.0,), (0.1, 10.0)]),
    "refit": st.sampled_from([True, True, True, False]),
    "cv": st.just(2),
}
PARAMETERS = {
    QProbeRegressor: OF_PROBES
    | {"loss": st.sampled_from(["squared_error", "log_loss"])},
    QProbePolicy: OF_PROBES | {"loss": st.sampled_from(sorted(LOSSES))},
    QProbePolicyCV: OF_SEARCHES,
}
N_FEATURES = st.integers(1, 4)


@st.composite
def candidate_sets(draw, n_features=N_FEATURES):
    """Embeddings and rewards, often with ties, a constant column or one prompt."""
    n, k, d = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(n_features)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    X = rng.normal(size=(n, k, d)) * draw(st.sampled_from([1, 1e-3, 100]))
    if draw(st.booleans()):
        X = X.round()
    if draw(st.booleans()):
        X[..., 0] = draw(st.sampled_from([0.0, 1.0, 7.0]))
    make_y = {
        "binary": lambda: rng.integers(0, 2, size=(n, k)).astype(float),
        "share": lambda: rng.random(size=(n, k)),
        "any": lambda: rng.normal(size=(n, k)),
        "equal": lambda: np.ones((n, k)),
    }
    y = make_y[draw(st.sampled_from(sorted(make_y)))]()
    return X.astype(draw(st.sampled_from(["f2", "f4", "f8"]))), y


def rows_of(sets):
    """Arrange the candidates as rows, prompt by prompt."""
    return sets.reshape(-1, *sets.shape[2:])


def state_of(probe):
    return copy.deepcopy(vars(probe))


def assert_same_state(state, expected):
    assert state.keys() == expected.keys()
    for name, value in state.items():
        np.testing.assert_equal(value, expected[name], err_msg=name)


EXPECTED_FAILURES = [
    "y must lie in [0, 1]",
    "y must hold counts of choices",
    "warm_start=True: X has",
    "Cannot have number of splits",
    "sample_weight is zero everywhere",
    "sample_weight is zero for all prompts that a fold",
]
"""Errors that a fit to valid data may raise for some settings."""

BAD_CALLS = {
    "nan": lambda probe, X, y: probe.fit(X * np.nan, y),
    "complex": lambda probe, X, y: probe.fit(X + 1j, y),
    "no y": lambda probe, X, y: probe.fit(X, None),
    "y": lambda probe, X, y: probe.fit(X, y[:, :-1]),
    "y is infinite": lambda probe, X, y: probe.fit(X, y + np.inf),
    "groups": lambda probe, X, y: probe.fit(rows_of(X), y.ravel(), [1] * (y.size + 1)),
    "weights": lambda probe, X, y: probe.fit(X, y, sample_weight=-y - 9),
    "name": lambda probe, X, y: probe.set_params(alhpa=1),
    "tol": lambda probe, X, y: clone(probe).set_params(tol=-1).fit(X, y),
    "predict nan": lambda probe, X, y: probe.predict(X * np.nan),
    "features": lambda probe, X, y: probe.sample(np.repeat(X, 9, axis=2)),
    "size": lambda probe, X, y: probe.sample(X, size=0),
    "score": lambda probe, X, y: probe.score(X, y[:, :-1]),
}


def results_of(probe, X, y, groups=None, seed=0):
    """Results of all methods by name."""
    results = {"sample": probe.sample(X, groups, size=3, random_state=seed)}
    if y.size > 1 or isinstance(probe, QProbePolicy):  # R^2 needs two values
        results["score"] = np.float64(probe.score(X, y, groups))
    if isinstance(probe, QProbePolicy):
        results["predict"] = probe.predict(X, groups)
        results["values"] = probe.decision_function(X)
        results["proba"] = probe.predict_proba(X, groups)
    else:
        results["values"] = probe.predict(X)
    return results


class Estimators(RuleBasedStateMachine):
    """An estimator whose methods are called in any order."""

    @initialize(Probe=st.sampled_from(list(PARAMETERS)))
    def begin(self, Probe):
        self.probe = Probe(random_state=0)

    @rule(data=st.data())
    def set_params(self, data):
        # The fitted attributes do not change.
        fitted = state_of(self.probe)
        params = data.draw(
            st.fixed_dictionaries({}, optional=PARAMETERS[type(self.probe)])
        )
        assert self.probe.set_params(**params) is self.probe
        assert_same_state(vars(self.probe), fitted | params)

    @rule(data=candidate_sets(), weighted=st.booleans())
    def fit(self, data, weighted):
        (X, y), weight, candidate_weight = data, None, None
        if weighted:
            weight = np.random.default_rng(len(X)).integers(0, 3, size=y.shape)
            candidate_weight = rows_of(weight)
        before, other = state_of(self.probe), copy.deepcopy(self.probe)
        try:
            assert self.probe.fit(X, y, sample_weight=weight) is self.probe
        except ValueError as error:
            assert any(words in str(error) for words in EXPECTED_FAILURES), error
            assert_same_state(vars(self.probe), before)
            return
        # As rows, the same candidates in the same order give the same bits.
        groups = np.repeat([f"prompt {i}" for i in range(len(X))], y.shape[1])
        other.fit(rows_of(X), rows_of(y), groups, sample_weight=candidate_weight)
        assert_same_state(vars(other), vars(self.probe))
        # A fit depends on no fit before it, except for a warm start.
        if not getattr(self.probe, "warm_start", False):
            fresh = clone(self.probe).fit(X, y, sample_weight=weight)
            assert_same_state(vars(fresh), vars(self.probe))

    @rule()
    def clone(self):
        fresh = clone(self.probe)
        assert not [name for name in vars(fresh) if name.endswith("_")]
        assert fresh.get_params() == self.probe.get_params()

    @precondition(lambda self: hasattr(self.probe, "coef_"))
    @rule(data=st.data())
    def pickle(self, data):
        X, y = self.draw_candidates(data)
        loaded = pickle.loads(pickle.dumps(self.probe))
        assert_same_state(vars(loaded), vars(self.probe))
        results, expected = (results_of(p, X, y) for p in (loaded, self.probe))
        for name, result in results.items():
            np.testing.assert_array_equal(result, expected[name], strict=True)
        self.probe = loaded

    @precondition(lambda self: hasattr(self.probe, "coef_"))
    @rule(data=st.data(), bad=st.sampled_from(sorted(BAD_CALLS)))
    def fail(self, data, bad):
        X, y = self.draw_candidates(data)
        before = state_of(self.probe)
        with pytest.raises(ValueError, match=r"."):
            BAD_CALLS[bad](self.probe, X, y)
        assert_same_state(vars(self.probe), before)

    @precondition(lambda self: hasattr(self.probe, "coef_"))
    @rule(data=st.data(), seed=st.integers(0, 9))
    def choose(self, data, seed):
        X, y = self.draw_candidates(data)
        (n, k), before, probe = y.shape, state_of(self.probe), self.probe
        found = results_of(probe, X, y, seed=seed)
        assert found["values"].shape == (n, k)
        assert np.isfinite(found["values"]).all()
        # Draws are candidates of their prompt, and the best ones at temperature 0.
        drawn = found["sample"]
        assert drawn.shape == (n, 3)
        assert drawn.min() >= 0 and drawn.max() < k
        behind = found["values"].max(axis=1, keepdims=True) - found["values"]
        if probe.temperature == 0:
            assert np.take_along_axis(behind, drawn, axis=1).max() == 0
        if isinstance(probe, QProbePolicy):
            np.testing.assert_array_equal(found["predict"], behind.argmin(axis=1))
            assert found["proba"].min() >= 0
            np.testing.assert_allclose(found["proba"].sum(axis=1), 1, rtol=1e-5)
            assert y.min() - 1e-9 <= found["score"] <= y.max() + 1e-9
        elif "score" in found:
            assert found["score"] <= 1
        # As rows, the same candidates in the same order have the same results.
        groups = np.repeat(np.arange(n) * 7 % 11, k)
        of_rows = results_of(probe, rows_of(X), rows_of(y), groups, seed)
        starts = k * np.arange(n)
        for name, result in found.items():
            if name in ("predict", "sample"):
                result = (result.T + starts).T
            np.testing.assert_array_equal(np.ravel(of_rows[name]), np.ravel(result))
        assert_same_state(vars(probe), before)

    def draw_candidates(self, data):
        return data.draw(candidate_sets(st.just(self.probe.n_features_in_)))

    @invariant()
    def fitted_attributes_belong_together(self):
        fitted = vars(self.probe) if hasattr(self, "probe") else {}
        assert ("coef_" in fitted) == ("intercept_" in fitted) == ("n_iter_" in fitted)
        if "coef_" in fitted:
            assert fitted["coef_"].shape == (self.probe.n_features_in_,)
            assert np.isfinite([*self.probe.coef_, self.probe.intercept_]).all()


def use_any_estimator(machine=Estimators, settings=SETTINGS):
    with ignored("No prompt is informative"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        run_state_machine_as_test(machine, settings=settings)


# The tests


@SETTINGS
@given(**TARGETS["texts"][1])
@example(X=np.array("a"))
@example(X=np.array(1))
@example(X=list)
@example(X=[["a"], 5])
@example(X=[["a"], {"prompt": "b"}])
@example(X=[{"prompt": "a", "completions": {"b": 1}}])
@example(X=[{"prompt": "a", "completions": None}])
@example(X=[frozenset("ab")])
@example(X=[np.array("ab")])
def test_any_texts(X):
    check_any_texts(X)


@SETTINGS
@given(**TARGETS["records"][1])
@example(records=[])
@example(records=3)
@example(records=[{"prompt": "a", "completions": ["b"], "rewards": None}])
@example(records=[{"prompt": "a", "completions": ["b"], "rewards": ["c"]}])
@example(records=[{"prompt": "a", "completions": ["b"], "rewards": [[1]]}])
@example(records=[{"prompt": "a", "completions": ["b"], "rewards": [10**400]}])
def test_any_records(records):
    check_any_records(records)


def test_frame_with_two_columns_of_one_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["a", "b", "c"]])
    frame.columns = ["prompt", "prompt", "completion"]
    with pytest.raises(ValueError, match=r"X has \['prompt', 'prompt', 'completion'\]"):
        check_texts(frame)


@SETTINGS
@given(**TARGETS["resume"][1])
@example(content=with_values([(0, "position", -1)]), lines=[], edits=[])
@example(content=with_values([(0, "position", 0.5)]), lines=[], edits=[])
@example(content=with_values([(0, "position", math.inf)]), lines=[], edits=[])
@example(content=with_values([(0, "generator", 1)]), lines=[], edits=[])
@example(content=with_values([(0, "completions", 2)]), lines=[], edits=[])
@example(content=with_values([(0, "rewards", [1])]), lines=[], edits=[])
@example(content=with_values([(0, "rewards", [math.nan, 1])]), lines=[], edits=[])
@example(content=b"[" * 100_000 + b"\n", lines=[], edits=[])
def test_any_file_to_resume(content, lines, edits):
    resume_any_file(content, lines, edits)


@settings(SETTINGS, max_examples=150)
@given(**TARGETS["cache"][1])
@example(content=None, edits=[(360, "write", b"\x80")], methods=["read"])
def test_any_cache_file(content, edits, methods):
    use_any_cache(content, edits, methods)


def test_cache_with_a_damaged_index_returns_no_value_of_another_text():
    # The index maps a key to a row; a wrong entry leads to a valid row.
    content = cache_file()
    for key in list(CACHED)[::6]:
        at = content.rindex(key) + len(key)  # the number of the row follows the key
        use_any_cache(content, [(at, "write", b"\x07")], ["read"])


@SETTINGS
@given(**TARGETS["export"][1])
@example([1.0], "float32", -0.0, 0.0, None, {"a": {"b": math.nan}})
@example([1e30], "float32", 0.0, 0.0, [1e300, 5e-324], None)
def test_any_export(coef, dtype, intercept, temperature, scales, metadata):
    export_any_probe(coef, dtype, intercept, temperature, scales, metadata)


@settings(SETTINGS, max_examples=300)
@given(**TARGETS["answers"][1])
def test_any_answer_of_a_server(kind, changes, edits, status, headers, zipped):
    pytest.importorskip("openai")
    ask_any_server(kind, changes, edits, status, headers, zipped)


def test_any_use_of_an_estimator():
    few = settings(
        SETTINGS,
        max_examples=60,
        stateful_step_count=20,
        phases=[Phase.generate],  # shrinking a failing case may take minutes
    )
    use_any_estimator(settings=few)
