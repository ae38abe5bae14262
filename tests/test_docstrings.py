"""Docstrings: a shared parameter has one description, which begins with a noun.

If docs/develop/style.md has the text of a parameter, the docstrings have this text.
"""

import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest
from public import public_names, public_objects

from skqprobe import QProbePolicy, QProbePolicyCV, QProbeRegressor

docscrape = pytest.importorskip("numpydoc.docscrape")

STYLE = Path(__file__).parents[1] / "docs" / "develop" / "style.md"

# By parameter: the docstrings that need another text, as regular expressions of their
# paths, and why. Those of one expression have one text.
OTHER_KINDS = {
    "X": {
        r"embedders\..*\.(fit|fit_transform|transform)": "texts",
        r"embedders\..*\.make_texts": "texts that were checked",
        r"preprocessing\.PerCandidate\.inverse_transform": "transformed embeddings",
        r"metrics\.candidate_values": "input of any estimator",
        r"metrics\.policy_report": "names the prompts that give an unbiased estimate",
        r"plotting\..*\.from_estimator": "as in policy_report, for any estimator",
    },
    "y": {
        r"embedders\..*|preprocessing\.SiblingFeatures\..*": "ignored",
        r"metrics\.(best_of_k|oracle|soft_best_of_k)_reward|metrics\.recovery": (
            "k is the number of draws, from m candidates"
        ),
        r"metrics\.win_rate": "as in best_of_k_reward; only the order matters",
        r"preprocessing\.PerCandidate\..*": "optional",
        r"metrics\.objective_rewards": "several objectives",
        r"metrics\.policy_report": "weights several objectives",
        r"metrics\.weights_at_cost": "several objectives, held out",
        r"plotting\.ParetoDisplay\.from_predictions": "two objectives",
        r"plotting\..*\.from_estimator": "of ParetoDisplay, too",
        r"(QProbe|Cal)\w+\.(fit|partial_fit|score)|Bay\w+\.score|ProbePipeline\..*": (
            "one reward per candidate, or several"
        ),
        r"BayesianQProbePolicy\.(fit|partial_fit)": "rewards or choices",
    },
    "offset": {
        r"\w+Policy(CV)?\.score": "no part of the rewards",
        r"QProbeRegressor\.score": "not used: R^2 is that of the rewards",
    },
    "groups": {
        r"(QProbe|Calibrated)PolicyCV\.fit|ProbePipeline\.fit": "for sets, too",
        r"QProbeRegressor\.score": "selects the possible shapes of sample_weight",
        r"plotting\.QValueDisplay\.from_predictions": "does not change the figure",
    },
    "sample_weight": {
        r"QProbePolicyCV\.fit": "weights the scores, too",
    },
    "prompt_weight": {},
    "average": {r"metrics\.recovery": "a ratio of two means"},
    "too_few": {},
    "scores": {
        r"losses\..*\.inverse_link": "an array of rows",
        r"losses\..*\.value_and_gradient": "an array of rows, in float64",
        r"metrics\.(best_of_k_reward|recovery|win_rate)": (
            "k is the number of draws, from m candidates; only the order matters"
        ),
        r"metrics\.soft_best_of_k_reward": "k is the number of draws",
    },
    "proba": {r"sample_candidates": "the result of any policy, so gives the range"},
    "random_state": {
        r"QProbe(Policy|Regressor)": "sets of candidates, draws and networks",
        r"QProbePolicyCV": "draws of sample",
        r"BayesianQProbePolicy": "draws of sample and predict_best_proba",
        r"\w+\.sample": "falls back to the estimator's random_state",
        r"generators\.BestOfK": "does not determine the candidates",
        r"generators\.select_candidates": "only of ties",
        r"metrics\.policy_report": "draws and resamples",
        r"metrics\.reward_at_cost": "orders of the candidates",
        r"plotting\.RewardCostDisplay.*": "orders and resamples",
        r"metrics\.(prompt_bootstrap|weights_at_cost)|plotting\..*": "resamples",
    },
    "progress": {},
    "ax": {},
    "n_resamples": {r"plotting\..*": "fewer by default, for a figure"},
    "confidence_level": {
        r"metrics\.Estimate": "no default",
    },
}

# The same for constructor parameters of the three estimators.
CONSTRUCTORS = {
    "alpha": {r"QProbeRegressor": "another default"},
    "loss": {r"QProbeRegressor": "two losses"},
    "temperature": {r"QProbeRegressor": "in units of the reward, and only for sample"},
    "view_weights": {r"QProbePolicyCV": "chosen by default"},
    "fit_intercept": {r"QProbePolicyCV": "no hidden layers"},
    "max_iter": {r"QProbePolicyCV": "no hidden layers"},
    "tol": {r"QProbePolicyCV": "no hidden layers"},
    "random_state": OTHER_KINDS["random_state"],
}


def squeeze(text):
    return " ".join(text.split())


def parameters_of(docstring):
    """Yield name, type and description of the parameters in a numpydoc docstring."""
    parsed = docscrape.NumpyDocString(docstring)
    for entry in parsed["Parameters"] + parsed["Other Parameters"]:
        for name in entry.name.split(", "):
            yield name, (squeeze(entry.type), squeeze(" ".join(entry.desc)))


def documented_objects():
    """Yield paths without "skqprobe.", and docstrings, of all that is public."""
    for path, member in public_objects().items():
        members = {path: member}
        if inspect.isclass(member):
            for name, method in inspect.getmembers(member, callable):
                module = getattr(method, "__module__", None) or ""
                if not name.startswith("_") and module.startswith("skqprobe"):
                    members[f"{path}.{name}"] = method
        for name, each in members.items():
            if callable(each) and each.__doc__:
                yield name.removeprefix("skqprobe."), inspect.getdoc(each)


TEXTS = defaultdict(dict)
"""By parameter and path: type and description."""
for path, docstring in documented_objects():
    for name, text in parameters_of(docstring):
        TEXTS[name][path] = text


def shared_texts():
    """Return the texts of the style sheet by parameter."""
    if not STYLE.exists():
        return {}
    section = STYLE.read_text("utf-8").partition("The shared texts:\n")[2]
    block = re.match(r"(\s*\n| {6}.*\n)+", section)[0]
    lines = "\n".join(line[6:] for line in block.splitlines())
    return dict(parameters_of("Title.\n\nParameters\n----------\n" + lines.strip("\n")))


def assert_one_text(texts, kinds, expected=None):
    """Check that texts by path differ only as the kinds explain."""
    rest, found = dict(texts), []
    for pattern in kinds:
        kind = {
            path: rest.pop(path) for path in list(rest) if re.fullmatch(pattern, path)
        }
        if not kind:
            found.append(f"No docstring is of the kind {pattern}.")
        if len(set(kind.values())) > 1:
            found += [f"One of {pattern}: {path}: {kind[path]}" for path in kind]
        if set(kind.values()) & {expected, *rest.values()}:
            found.append(f"{pattern} needs no exception.")
    if expected is not None:
        found += [f"{path}: {rest[path]}" for path in rest if rest[path] != expected]
    elif len(set(rest.values())) > 1:
        found += [f"{path}: {rest[path]}" for path in rest]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_shared_parameters_have_one_text(name):
    assert name in TEXTS
    assert_one_text(TEXTS[name], OTHER_KINDS[name], shared_texts().get(name))


def test_all_parameters_of_the_style_sheet_are_checked():
    if not STYLE.exists():
        pytest.skip("not a checkout")
    assert shared_texts()
    assert set(shared_texts()) <= set(OTHER_KINDS)


def shared_constructor_parameters():
    probes = [QProbePolicy, QProbeRegressor, QProbePolicyCV]
    names = [name for probe in probes for name in inspect.signature(probe).parameters]
    return sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("name", shared_constructor_parameters())
def test_constructors_of_the_estimators_have_one_text(name):
    paths = ["QProbePolicy", "QProbeRegressor", "QProbePolicyCV"]
    texts = {path: TEXTS[name][path] for path in paths if path in TEXTS[name]}
    kinds = CONSTRUCTORS.get(name, {})
    kinds = {p: kinds[p] for p in kinds if any(re.fullmatch(p, t) for t in texts)}
    assert len(texts) > 1
    assert_one_text(texts, kinds)


def test_no_description_begins_with_a_question_word():
    words = re.compile(r"(What|How|Of|Where|Which|Who)\b")
    found = [
        f"{path}: {name}: {description}"
        for name, texts in TEXTS.items()
        for path, (_, description) in texts.items()
        if words.match(description)
    ]
    assert not found, "\n".join(found)


def test_public_names_exist():
    names = list(public_names())
    assert len(set(names)) == len(names)
    assert set(public_objects()) == set(names)
