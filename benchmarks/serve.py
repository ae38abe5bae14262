"""Measure the server: overhead, load with faults, and the reward of served answers.

    python benchmarks/serve.py                             # overhead, load
    python benchmarks/serve.py --only load --requests 500 --clients 50
    python benchmarks/serve.py --only words                # a real model; minutes

- overhead: the time of a request at k = 1 through the server and without it, with one
  client, in turn, and that of the choice among 16 candidates of 384 features;
- load: concurrent clients, each request with a number of its own that the answer must
  have, in front of an upstream of which a share of the answers are faults. The server
  runs as `python -m skqprobe serve`, and its memory is read while it runs;
- words: a probe is fitted to the "two words" task with SmolLM2-135M, as in live_lm.py.
  The same client then asks the llama.cpp server itself, and this server in front of it,
  about prompts with words that are not in the training prompts.

Needs `pip install "skqprobe[serve]"`; "words" also needs the packages of live_lm.py.
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import skops.io
from _command import machine, make_parser, versions
from _output import print_pairs
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicy
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.metrics import prompt_bootstrap
from skqprobe.preprocessing import PerCandidate
from skqprobe.serve._choose import Chooser

PARTS = ["overhead", "load", "words"]
HERE = Path(__file__).parent


def free_port():
    """Find a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def process(*arguments, port, **environment):
    """Run Python in another process, until it listens on a port; give its address."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-m", *map(str, arguments)]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            assert running.poll() is None, "the server ended"
            try:
                httpx.get(f"{url}/models", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, running.pid
    finally:
        running.terminate()
        running.wait(20)


@contextmanager
def upstream(latency, faults):
    """Run the upstream, and give its address."""
    port = free_port()
    options = ["_serve_upstream:app", "--port", port, "--log-level", "critical"]
    settings = {"LATENCY": str(latency), "FAULTS": str(faults)}
    with process("uvicorn", *options, port=port, **settings) as (url, _):
        yield url


@contextmanager
def served(pipeline, *options):
    """Run `skqprobe serve`, and give its address and process."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.skops"
        skops.io.dump(pipeline, path)
        command = ["skqprobe", "serve", path, "--port", port, *options]
        with process(*command, port=port) as found:
            yield found


def make_hashing_pipeline():
    """Fit a pipeline of 384 features of the text to arbitrary rewards."""
    records = [
        {"prompt": "x", "completions": [f"x answer {i} {j}" for j in range(4)]}
        for i in range(20)
    ]
    embedder = VectorizerEmbedder(HashingVectorizer(n_features=384))
    policy = QProbePolicy("squared_error")
    pipeline = make_pipeline(embedder, PerCandidate(StandardScaler()), policy)
    y = np.random.default_rng(0).random((20, 4))
    return pipeline.fit(records, y)


def chat(prompt, k=None):
    """Make the content of a request."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return body if k is None else body | {"skqprobe": {"k": k}}


def measure_overhead(n=500):
    """Return the median times of requests with and without the server, in ms."""
    pipeline = make_hashing_pipeline()
    with upstream(0, 0) as bare, served(pipeline, "--upstream", bare) as (url, _):
        ways = {"bare": (bare, None), "k = 1": (url, 1), "k = 8": (url, 8)}
        times = {name: [] for name in ways}
        with httpx.Client() as client:
            for i in range(n + 20):  # in turn, so that all have the same load
                for name, (address, k) in ways.items():
                    start = time.perf_counter()
                    path = f"{address}/chat/completions"
                    assert client.post(path, json=chat("hi", k)).status_code == 200
                    if i >= 20:
                        times[name].append(time.perf_counter() - start)
    found = {name: 1000 * np.median(each) for name, each in times.items()}
    found["overhead at k = 1"] = found["k = 1"] - found["bare"]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 16, 384)).astype("float32")
    policy = QProbePolicy("squared_error").fit(X, X[..., 0])
    chooser = Chooser(policy, "embeddings", 0.0, lambda n: None)
    record = {"prompt": "", "completions": ["x"] * 16, "embeddings": X[0]}
    times = []
    for _ in range(n):
        start = time.perf_counter()
        chooser.compute([record])
        times.append(time.perf_counter() - start)
    return found | {"choice among 16 x 384": 1000 * np.median(times)}


def memory_of(pid):
    """Return the resident memory of a process in MB; NaN where it is not known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return np.nan
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def run_load(url, pid, n_requests, n_clients):
    """Send requests, and return what came: counts, times and memory."""
    numbers = iter(range(n_requests))
    found = {"answered": 0, "mixed up": 0, "lost": 0, "repeated by the client": 0}
    times, partial, memory = [], 0, []

    async def work():
        # Each has a client of its own: one of many connections would be slower.
        async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as client:
            for number in numbers:
                await ask_once(client, number)

    async def ask_once(client, number):
        nonlocal partial
        nonce = f"nonce-{number}-{random.getrandbits(64):x}"
        start = time.perf_counter()
        for attempt in range(3):  # as the official client does
            answer = await client.post("/chat/completions", json=chat(nonce))
            if answer.status_code == 200:
                break
            found["repeated by the client"] += attempt < 2
        times.append(time.perf_counter() - start)
        if len(times) % max(1, n_requests // 10) == 0:
            memory.append(memory_of(pid))
        if answer.status_code != 200:
            found["lost"] += 1
            return
        (choice,) = answer.json()["choices"]
        is_own = choice["message"]["content"].split()[0] == nonce
        found["answered" if is_own else "mixed up"] += 1
        partial += answer.headers["x-skqprobe-failed"] != "0"

    await asyncio.gather(*(work() for _ in range(n_clients)))
    return found | {
        "with some draws failed": partial,
        "median s": float(np.median(times)),
        "99% s": float(np.quantile(times, 0.99)),
        "memory in MB, by tenths": memory,
    }


def measure_load(n_requests, n_clients, k=4, latency=0.05, faults=0.05):
    """Return the result of a load; each candidate is a request upstream."""
    options = ["--k", k, "--n-per-request", 1, "--max-requests", 2 * n_clients]
    with (
        upstream(latency, faults) as bare,
        served(make_hashing_pipeline(), "--upstream", bare, *options) as (url, pid),
    ):
        start = time.perf_counter()
        found = asyncio.run(run_load(url, pid, n_requests, n_clients))
        return found | {"seconds": time.perf_counter() - start}


def ask(url, items, n_answers):
    """Answer prompts by an OpenAI-compatible server: the client script."""
    from live_lm import SAMPLING, score
    from openai import OpenAI

    sampling = {name: v for name, v in SAMPLING.items() if name != "seed"}
    with OpenAI(base_url=url, api_key="none", timeout=300) as client:
        return [
            [
                score(
                    item,
                    client.completions.create(
                        model="SmolLM2-135M", prompt=item["prompt"], **sampling
                    )
                    .choices[0]
                    .text,
                )
                for _ in range(n_answers)
            ]
            for item in items
        ]


def measure_words(n, k):
    """Return the rewards of the bare model and of served answers, with intervals."""
    import live_lm

    train, test = live_lm.make_items(n)
    model = live_lm.start_server(k)
    bare = model.listening_address + "/v1"
    api = {"model": "SmolLM2-135M", "base_url": bare, "concurrency": 1, "timeout": 300}
    generator = live_lm.OpenAIGenerator(**api, **live_lm.SAMPLING)
    embedder = live_lm.OpenAIEmbedder(**api, join=live_lm.without_examples)
    records, y = live_lm.collect_train(train, generator, k, None)
    policy = live_lm.search(embedder.fit_transform(records), y).best_estimator_
    pipeline = make_pipeline(embedder, policy)
    options = ["--upstream", bare, "--model", "SmolLM2-135M", "--k", k, "--timeout"]
    trusted = ["--trusted", "live_lm.without_examples"]
    rewards = {"bare": np.array(ask(bare, test, 4), dtype=float)}
    with served(pipeline, *options, 300, *trusted) as (url, _):
        rewards["served"] = np.array(ask(url, test, 1), dtype=float)
    means = {name: each.mean(axis=1) for name, each in rewards.items()}
    means["gain"] = means["served"] - means["bare"]
    return {name: interval(each) for name, each in means.items()}


def interval(values):
    """Return the mean of values of prompts with its interval, as a text."""

    def of_prompts(y, average="mean", **options):
        return y[:, 0] if average is None else y[:, 0].mean()

    return str(prompt_bootstrap(of_prompts, values[:, None], random_state=0))


def main():
    parser = make_parser(__doc__, only=PARTS)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--n", type=int, default=60, help="prompts of words per split")
    parser.add_argument("--k", type=int, default=16, help="candidates of words")
    args = parser.parse_args()
    print_pairs(machine() | versions())
    for part in args.only or ["overhead", "load"]:
        print(f"\n{part}")
        if part == "overhead":
            found = {name: f"{v:8.2f} ms" for name, v in measure_overhead().items()}
        elif part == "load":
            found = measure_load(args.requests, args.clients)
        else:
            found = measure_words(args.n, args.k)
        for name, value in found.items():
            if isinstance(value, list):
                value = " ".join(f"{each:.0f}" for each in value)
            print(
                f"  {name:28} {value:.3f}"
                if isinstance(value, float)
                else f"  {name:28} {value}"
            )


if __name__ == "__main__":
    main()
