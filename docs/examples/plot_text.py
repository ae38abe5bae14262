"""
Text embedders without a language model
=======================================

A pipeline can start with prompts and completions. An embedder converts each text to
numbers. scikit-learn's vectorizers and custom functions can serve as embedders and need
only the core dependencies. This example compares them with the hidden states of a
language model.
"""

# %%
# Records
# -------
# A record is a prompt with its completions. All prompts of this data set begin with the
# same four examples, which carry no information about a completion. Only the last two
# lines are kept.

import re

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import QProbePolicyCV
from skqprobe.datasets import load_two_words
from skqprobe.embedders import VectorizerEmbedder
from skqprobe.metrics import base_reward, best_of_k_reward, prompt_bootstrap
from skqprobe.preprocessing import PerCandidate

data = load_two_words()
y = data.target
records = [
    {"prompt": "\n".join(prompt.splitlines()[-2:]), "completions": list(completions)}
    for prompt, completions in zip(data.prompts, data.completions, strict=True)
]
print(records[0]["prompt"] + records[0]["completions"][7])

# %%
# Three embedders
# ---------------
# Two vectorizers compute tf-idf features of the words and of the character n-grams of
# the completions. They are fitted on the training texts. The third embedder is a
# function that computes six hand-crafted features. It receives prompt and completion as
# one text, so it can compare the two.

END = re.compile(r"[.!?]")


def completion_alone(prompt, completion):
    return completion


def measure(texts):
    """Count the given words, all words and the sentence ends of each completion."""
    rows = []
    for text in texts:
        words, sentence = re.match(r"Words: (.*)\nSentence:(.*)", text, re.S).groups()
        found = sum(word in sentence.lower() for word in words.split(" and "))
        n_words, n_ends = len(sentence.split()), len(END.findall(sentence))
        rows.append([found, found == 2, n_words, n_words < 15, n_ends, n_ends == 1])
    return rows


def vectorizer(**options):
    return make_pipeline(
        TfidfVectorizer(max_features=5000, sublinear_tf=True, **options),
        TruncatedSVD(64, random_state=0),
    )


embedders = {
    "words (tf-idf)": VectorizerEmbedder(vectorizer(), join=completion_alone),
    "letters (tf-idf)": VectorizerEmbedder(
        vectorizer(analyzer="char", ngram_range=(1, 3)), join=completion_alone
    ),
    "six features": VectorizerEmbedder(measure, join=lambda p, c: p + c),
}

# %%
# Training and evaluation
# -----------------------

train, test = slice(0, 120), slice(120, 240)


def probe():
    return [PerCandidate(StandardScaler()), QProbePolicyCV(["log_loss"], cv=3)]


values = {}
for name, embedder in embedders.items():
    pipeline = make_pipeline(embedder, *probe()).fit(records[train], y[train])
    values[name] = pipeline.decision_function(records[test])
pipeline = make_pipeline(*probe()).fit(data.data[train], y[train])
values["hidden state of the model"] = pipeline.decision_function(data.data[test])
values["likelihood, no training"] = data.log_likelihood[test]

estimates = {
    name: prompt_bootstrap(best_of_k_reward, y[test], scores, k=16, random_state=0)
    for name, scores in values.items()
}
print(f"{'base':28} {base_reward(y[test]):.3f}")
for name, estimate in estimates.items():
    print(f"{name:28} {estimate}")

# %%
# Interpretation
# --------------
# Words and character n-grams alone are no better than the likelihood, which needs no
# training. A vectorizer captures that a completion is short, but not that it contains
# the two given words. The six hand-crafted features are at least as good as the hidden
# state of the model. This is expected here, because the reward is a rule and the
# features nearly reproduce it. If you can describe what makes an answer good, use such
# features. A hidden state does not need this knowledge.

plt.rc("font", size=13)
fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
names = list(estimates)[::-1]
mean, low, high = np.array([(e.value, e.low, e.high) for e in estimates.values()])[
    ::-1
].T
colors = ["C0" if name in embedders else "0.45" for name in names]
ax.hlines(names, low, high, colors, linewidth=2.5)
ax.scatter(mean, names, c=colors, s=50, zorder=3)
ax.axvline(base_reward(y[test]), color="0.4", linestyle="--", linewidth=1)
middle = {"y": 0.5, "transform": ax.get_xaxis_transform()}
ax.text(base_reward(y[test]) + 0.01, s="base", color="0.4", **middle)
ax.set(xlabel="reward (95% interval)", xlim=(0.3, 1))
ax.grid(axis="x", alpha=0.3)
plt.show()
