"""Processes of collect that are killed at random moments."""

import os
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


def kill_often(folder, n_kills, concurrency, seed):
    """Kill processes, and check the file each time.

    A collection is started again until it is complete, and then another one begins.
    """
    rng = np.random.default_rng(seed)
    total = Outcome(0, 0, 0, 0)
    while total.n_kills < n_kills:
        place = folder / str(total.n_kills)
        place.mkdir()
        found = kill_until_done(place, n_kills - total.n_kills, concurrency, rng)
        sums = (one + other for one, other in zip(total[:3], found[:3], strict=True))
        total = Outcome(*sums, max(total.n_lost_at_once, found.n_lost_at_once))
    return total


def kill_until_done(folder, n_kills, concurrency, rng):
    """Start a collection until it is complete, and kill it up to `n_kills` times."""
    path, log = folder / "records.jsonl", folder / "log"
    call = f"collect_numbers({str(path)!r}, {str(log)!r}, {concurrency})"
    drawn, losses, rewards, is_complete = {}, [0], {}, False
    while not is_complete:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from killed_process import *; {call}"],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        )
        assert process.stdout.readline() == b"ready\n"
        if len(losses) <= n_kills:
            # Kill it when it has written some more lines, or soon after.
            enough = size_of(path) + rng.integers(0, 500_000)
            while size_of(path) < enough and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.005))
            if process.poll() is None:
                process.kill()
        process.communicate()
        rewards = read_rewards(path)
        for prompt, text in rewards:
            assert drawn.setdefault(text, prompt) == prompt
        assert len(rewards) == len(drawn)  # no completion was drawn again
        n_lost = n_lines(log) - np.isfinite([*rewards.values()]).sum()
        if process.returncode == 0:
            assert n_lost == losses[-1]
            assert len(rewards) == N_PROMPTS * K
            is_complete = np.isfinite([*rewards.values()]).all()
        else:
            losses.append(int(n_lost))
    return Outcome(len(losses) - 1, n_lines(log), losses[-1], int(max(np.diff(losses))))


def size_of(path):
    """Return the size of the file, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def read_rewards(path):
    """Return the rewards by prompt and completion; check that they are right."""
    if not path.exists():
        return {}
    data = load_records(path)
    for (_, text), value in zip(data.texts, data.y, strict=True):
        assert np.isnan(value) or value == float(text)
    return dict(zip(map(tuple, data.texts), data.y, strict=True))


def n_lines(log):
    """Return the number of rewards that were computed."""
    return len(log.read_bytes().splitlines()) if log.exists() else 0
