"""Processes of collect that are killed at random moments."""

import random
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np

from skqprobe.generators import BaseGenerator, collect, load_records

N_PROMPTS, K = 400, 3


class Numbers(BaseGenerator):
    """Random numbers as texts, and arrays that make long lines."""

    def __init__(self, progress=False):
        self.progress = progress

    def sample(self, prompt, k):
        draw = random.Random(prompt)
        states = np.full((k, 400), draw.random())
        texts = [str(draw.random()) for _ in range(k)]
        return {"prompt": prompt, "completions": texts, "hidden_states": states}


def collect_numbers(path, log, concurrency):
    """Collect rewards, 2% of which fail; log each one when it is computed."""
    warnings.simplefilter("ignore")
    with open(log, "ab", buffering=0) as stream:

        def reward(item, completion):
            if random.random() < 0.02:
                raise OSError("no answer")
            stream.write(completion.encode() + b"\n")
            return float(completion)

        print("ready", flush=True)
        prompts = [str(i) for i in range(N_PROMPTS)]
        collect(
            prompts, Numbers(), reward, K, path=path, reward_concurrency=concurrency
        )


class Outcome(NamedTuple):
    """Numbers of kills, of rewards computed and lost, and of the largest loss."""

    n_kills: int
    n_computed: int
    n_lost: int
    n_lost_at_once: int


def kill_often(folder, n_starts, concurrency, seed):
    """Start a collection and kill it, `n_starts` times, and check the file each time.

    After the last kill, the collection is completed.
    """
    path, log = folder / "records.jsonl", folder / "log"
    rng = np.random.default_rng(seed)
    command = f"from kill import *; collect_numbers({str(path)!r}, {str(log)!r}, "
    command = [sys.executable, "-c", f"{command}{concurrency})"]

    def start():
        env = {"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
        assert process.stdout.readline() == b"ready\n"
        return process

    def size():
        return path.stat().st_size if path.exists() else 0

    drawn, n_kills, losses = {}, 0, [0]
    for _ in range(n_starts):
        # Kill it when it has written some more lines, or soon after.
        enough, process = size() + rng.integers(0, 5_000_000 // n_starts), start()
        while size() < enough and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.005))
        n_kills += process.poll() is None
        process.kill()
        process.communicate()
        rewards = read_rewards(path)
        for prompt, text in rewards:
            assert drawn.setdefault(text, prompt) == prompt
        assert len(rewards) == len(drawn)  # no completion was drawn again
        losses.append(n_lines(log) - np.isfinite([*rewards.values()]).sum())
    for _ in range(20):  # until no reward fails any more
        process = start()
        process.communicate()
        assert process.returncode == 0
        rewards = read_rewards(path)
        if np.isfinite([*rewards.values()]).all():
            break
    assert len(rewards) == N_PROMPTS * K == len({text for _, text in rewards})
    assert losses[-1] == n_lines(log) - len(rewards)
    return Outcome(n_kills, n_lines(log), int(losses[-1]), int(np.diff(losses).max()))


def read_rewards(path):
    """Return the rewards by prompt and completion; check that they are right."""
    if not path.exists():
        return {}
    data = load_records(path)
    for (_, text), value in zip(data.texts, data.y, strict=True):
        assert np.isnan(value) or value == float(text)
    return dict(zip(data.texts, data.y, strict=True))


def n_lines(log):
    """Return the number of rewards that were computed."""
    return len(log.read_bytes().splitlines()) if log.exists() else 0
