"""
From text, without a language model
===================================

A pipeline can begin with prompts and completions. Anything that turns a text into
numbers is an embedder: scikit-learn's vectorisers, or a function of your own. Neither
needs more than the core dependencies. How do they compare with the states of a language
model?
"""

# %%
# Text in
# -------
# A record is a prompt with its completions. All prompts of this data begin with the
# same four examples, which say nothing of a completion: the last two lines are kept.

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
# Words and letters of the completions, which a vectoriser learns on the training texts;
# and a function that measures what one thinks matters. A function sees prompt and
# completion as one text, and so can compare the two.

END = re.compile(r"[.!?]")


def completion_alone(prompt, completion):
    return completion


def measure(texts):
    """How long is it, how many sentences, and how many of the two words has it?"""
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
    "six measures": VectorizerEmbedder(measure, join=lambda p, c: p + c),
}

# %%
# Train and choose
# ----------------

train, test = slice(0, 120), slice(120, 240)


def probe():
    return [PerCandidate(StandardScaler()), QProbePolicyCV(["log_loss"], cv=3)]


values = {}
for name, embedder in embedders.items():
    pipeline = make_pipeline(embedder, *probe()).fit(records[train], y[train])
    values[name] = pipeline.decision_function(records[test])
pipeline = make_pipeline(*probe()).fit(data.data[train], y[train])
values["hidden state of the model"] = pipeline.decision_function(data.data[test])
values["its likelihood, no training"] = data.log_likelihood[test]

estimates = {
    name: prompt_bootstrap(best_of_k_reward, y[test], scores, k=16, random_state=0)
    for name, scores in values.items()
}
print(f"{'base':28} {base_reward(y[test]):.3f}")
for name, estimate in estimates.items():
    print(f"{name:28} {estimate}")

# %%
# What one sees
# -------------
# Words and letters alone do no better than the likelihood, which needs no training at
# all: a vectoriser sees that a completion is short, not that it has the two words it
# was asked for. Six measures do at least as well as the hidden state of the model. That
# is no surprise here, where the reward is a rule and the measures come close to it;
# if you can write down what makes an answer good, do. A hidden state needs no such
# insight.

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
ax.set(xlabel="reward of the chosen one (95% interval)", xlim=(0.3, 1))
ax.grid(axis="x", alpha=0.3)
plt.show()
