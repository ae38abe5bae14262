import copy
import pickle

import numpy as np
import pytest
from cases import as_rows, centered_in_prompts
from estimators import assert_refused, assert_same_state, state_of
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import kstest, multivariate_normal, norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqprobe import BayesianQProbePolicy, QProbePolicy, QProbePolicyCV
from skqprobe._estimators import _posterior
from skqprobe.datasets import load_two_words
from skqprobe.preprocessing import PerCandidate

LIKELIHOODS = ("gaussian", "choice")
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def make_data(rng, n, k, d, alpha, likelihood, theta=None):
    """Draw coefficients from the prior, and rewards or one choice per prompt."""
    X = rng.normal(size=(n, k, d)) + rng.normal(size=d)
    noise = 0.5 if likelihood == "gaussian" else 1.0
    if theta is None:
        theta = noise * rng.normal(size=d) / np.sqrt(alpha)
    Q = X @ theta
    if likelihood == "gaussian":
        return X, Q + rng.normal(size=(n, 1)) + noise * rng.normal(size=(n, k)), theta
    chosen = (Q + rng.gumbel(size=(n, k))).argmax(axis=1)
    return X, np.eye(k)[chosen], theta


def centered(X):
    return X - X.mean(axis=1, keepdims=True)


def dense_covariance(policy):
    """Covariance of the posterior from its documentation."""
    R = policy.factor_.astype(float)
    precision = R.T @ R + policy.alpha_ * np.eye(R.shape[1])
    return policy.noise_variance_ * np.linalg.inv(precision)


def free_contrasts(n, k):
    """Orthonormal basis of the rewards that sum to 0 inside prompts."""
    basis = np.linalg.qr(np.column_stack([np.ones(k), np.eye(k)[:, 1:]]))[0][:, 1:]
    return np.kron(np.eye(n), basis)


# Gaussian rewards: exact


@pytest.mark.parametrize("d", [4, 40], ids=["all features", "span of the rows"])
def test_gaussian_posterior_is_exact(rng, d):
    X, y, _ = make_data(rng, 6, 4, d, 1.0, "gaussian")
    policy = BayesianQProbePolicy(alpha=0.7).fit(X, y)
    Xc, yc = centered(X).reshape(24, d), centered(y).ravel()
    coef = np.linalg.solve(Xc.T @ Xc + 0.7 * np.eye(d), Xc.T @ yc)
    assert_allclose(policy.coef_, coef, rtol=1e-9)
    assert policy.factor_.shape == (min(d, 18), d)
    assert_allclose(policy.factor_.T @ policy.factor_, Xc.T @ Xc, atol=1e-12)
    assert policy.alpha_ == 0.7
    # The evidence is the density of the rewards, up to a constant per prompt.
    contrasts = free_contrasts(6, 4)
    kernel = np.eye(18) + contrasts.T @ Xc @ Xc.T @ contrasts / 0.7
    free = contrasts.T @ y.ravel()
    assert policy.noise_variance_ == pytest.approx(
        free @ np.linalg.solve(kernel, free) / 18
    )
    density = multivariate_normal(cov=policy.noise_variance_ * kernel)
    assert policy.log_evidence_ == pytest.approx(density.logpdf(free))
    assert policy.n_iter_ == 1 and policy.intercept_ == 0.0


@pytest.mark.parametrize("d", [5, 60])
@every_likelihood
def test_spread_is_that_of_the_posterior(rng, likelihood, d):
    X, y, _ = make_data(rng, 12, 3, d, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood, alpha=0.5, n_draws=40_000, random_state=0)
    policy.fit(X, y)
    new = rng.normal(size=(7, 3, d))
    Q, std = policy.decision_function(new, return_std=True)
    assert_array_equal(Q, policy.decision_function(new))
    covariance = dense_covariance(policy)
    Xc = centered(new)
    expected = np.sqrt(np.einsum("pki,ij,pkj->pk", Xc, covariance, Xc))
    assert_allclose(std, expected, rtol=1e-6)
    theta = rng.multivariate_normal(policy.coef_, covariance, size=40_000)
    best = (new @ theta.T).argmax(axis=1)
    shares = np.stack([(best == i).mean(axis=1) for i in range(3)], axis=1)
    proba = policy.predict_best_proba(new)
    assert_allclose(proba, shares, atol=0.015)
    assert_allclose(proba.sum(axis=1), 1)
    assert_array_equal(policy.predict_best_proba(new), proba)


def test_weak_prior_does_not_change_the_probabilities(rng):
    X, y, _ = make_data(rng, 12, 4, 3, 1.0, "gaussian")
    new = rng.normal(size=(7, 3, 3))
    policies = [
        BayesianQProbePolicy(alpha=alpha, random_state=0).fit(X, y)
        for alpha in (1e-8, 1e-20, 1e-100)
    ]
    expected, *others = (policy.predict_best_proba(new) for policy in policies)
    for each in others:
        assert_allclose(each, expected, atol=0.002)


@pytest.mark.parametrize("n", [8, 100])
def test_alpha_maximizes_the_evidence(rng, n):
    X, y, _ = make_data(rng, n, 6, 20, 4.0, "gaussian")
    policy = BayesianQProbePolicy().fit(X, y)
    for factor in (0.5, 0.99, 1.01, 2.0):
        other = BayesianQProbePolicy(alpha=factor * policy.alpha_).fit(X, y)
        assert other.log_evidence_ < policy.log_evidence_
    same = BayesianQProbePolicy(alpha=policy.alpha_).fit(X, y)
    assert same.log_evidence_ == policy.log_evidence_


def test_few_rewards_are_not_interpolated(rng):
    # The largest evidence is at 0, where the coefficients fit all 10 rewards.
    X = rng.normal(size=(2, 6, 40))
    y = np.linalg.svd(centered(X).reshape(12, 40))[0][:, 0].reshape(2, 6)
    policy = BayesianQProbePolicy().fit(X, y)
    exact = BayesianQProbePolicy(alpha=1e-6).fit(X, y)
    assert exact.log_evidence_ > policy.log_evidence_
    assert policy.alpha_ == pytest.approx((policy.factor_**2).sum() / 10)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-3, 1e-2])
def test_many_rewards_with_little_noise_are_fitted(rng, noise):
    X = rng.normal(size=(100, 5, 20)) * np.logspace(0, -2, 20)
    theta = rng.normal(size=20)
    policy = BayesianQProbePolicy().fit(
        X, X @ theta + noise * rng.normal(size=(100, 5))
    )
    assert_allclose(policy.coef_, theta, atol=1e-6 + 20 * noise)
    if noise > 1e-4:  # the smallest precision of the prior limits it
        assert policy.noise_variance_ == pytest.approx(noise**2, rel=0.3)


def test_evidence_finds_the_prior_and_the_noise(rng):
    X, y, _ = make_data(rng, 100, 6, 200, 50.0, "gaussian")
    policy = BayesianQProbePolicy().fit(X, y)
    assert policy.noise_variance_ == pytest.approx(0.25, rel=0.15)
    assert policy.alpha_ == pytest.approx(50, rel=0.3)


def test_coefficients_are_those_of_contrastive_policy_gradient(rng):
    X, y, _ = make_data(rng, 20, 5, 8, 1.0, "gaussian")
    policy = BayesianQProbePolicy().fit(X, y)
    loss, alpha = "contrastive_policy_gradient", policy.alpha_ / 100
    assert_allclose(QProbePolicy(loss, alpha=alpha).fit(X, y).coef_, policy.coef_)


def test_pure_noise_shrinks_the_values(rng):
    X, y = rng.normal(size=(50, 6, 10)), rng.normal(size=(50, 6))
    X[:, :, 0] -= 1e-3 * y  # the first feature is worse than nothing
    policy = BayesianQProbePolicy().fit(X, y - X @ np.full(10, 1e-3))
    assert policy.decision_function(X).std() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("likelihood, n", [("gaussian", 15), ("choice", 200)])
def test_simulation_based_calibration(likelihood, n):
    """Draws from the prior are where the posterior of their data says (Talts 2018)."""
    rng, alpha, shares, best = np.random.default_rng(0), 4.0, [], []
    policy = BayesianQProbePolicy(likelihood, alpha=alpha, n_draws=200, random_state=0)
    for _ in range(300):
        X, y, theta = make_data(rng, n, 5, 6, alpha, likelihood)
        policy.fit(X, y)
        new = rng.normal(size=(1, 3, 6))
        Q, std = policy.decision_function(new, return_std=True)
        error = centered(new @ theta - Q)[0, 0]
        shares.append(norm.cdf(error / std[0, 0]))
        best.append(policy.predict_best_proba(new)[0, (new @ theta).argmax()])
    assert kstest(shares, "uniform").pvalue > 0.01
    covered = [
        np.mean(np.abs(np.array(shares) - 0.5) < level / 2) for level in (0.5, 0.9)
    ]
    assert_allclose(covered, [0.5, 0.9], atol=0.07)
    # The best candidate has a mean probability that the probabilities predict.
    assert np.mean(best) > 0.5


# Choices: Laplace's approximation


def choice_objective(theta, X, c, alpha):
    return -(c * log_softmax(X @ theta, axis=1)).sum() + alpha / 2 * theta @ theta


def test_choice_finds_the_mode_and_its_curvature(rng):
    X, c, _ = make_data(rng, 40, 4, 3, 1.0, "choice")
    c = c * rng.integers(0, 4, size=(40, 1))
    policy = BayesianQProbePolicy("choice", alpha=0.7).fit(X, c)
    mode = minimize(choice_objective, np.zeros(3), args=(X, c, 0.7), tol=1e-10).x
    assert_allclose(policy.coef_, mode, rtol=1e-4)
    q = softmax(X @ policy.coef_, axis=1)
    curvature = 0.7 * np.eye(3)
    for x, p, total in zip(X, q, c.sum(axis=1), strict=True):
        curvature += total * x.T @ (np.diag(p) - np.outer(p, p)) @ x
    assert_allclose(dense_covariance(policy), np.linalg.inv(curvature), rtol=1e-4)
    evidence = (
        -choice_objective(policy.coef_, X, c, 0.7)
        + 1.5 * np.log(0.7)
        - np.linalg.slogdet(curvature)[1] / 2
    )
    assert policy.log_evidence_ == pytest.approx(evidence, rel=1e-6)
    assert policy.n_skipped_prompts_ == (c.sum(axis=1) == 0).sum() > 0
    assert policy.noise_variance_ == 1.0


def test_mode_of_choices_is_the_conditional_logit(rng):
    """The mean loss over prompts has 1 / n of the penalty of the sum."""
    X = rng.normal(size=(40, 5, 3))
    y = np.eye(5)[(X[..., 0] + rng.gumbel(size=(40, 5))).argmax(axis=1)]
    posterior = BayesianQProbePolicy("choice", alpha=2.0).fit(X, y)
    logit = QProbePolicy("conditional_logit", alpha=2.0 / 40, tol=1e-8).fit(X, y)
    assert_allclose(posterior.coef_, logit.coef_, rtol=1e-4, atol=1e-5)


def test_alpha_of_choices_is_a_fixed_point(rng):
    X, c, _ = make_data(rng, 60, 4, 30, 2.0, "choice")
    policy = BayesianQProbePolicy("choice").fit(X, c)
    s = np.linalg.eigvalsh(policy.factor_ @ policy.factor_.T)
    n_determined = (s / (s + policy.alpha_)).sum()
    assert policy.alpha_ == pytest.approx(
        n_determined / (policy.coef_ @ policy.coef_), rel=1e-4
    )
    same = BayesianQProbePolicy("choice", alpha=policy.alpha_).fit(X, c)
    assert_allclose(same.coef_, policy.coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n, count", [(1, 1000), (3, 1000), (2, 3)])
def test_steps_do_not_cycle(rng, n, count):
    """The best alpha of one step may be far from that of the next, again and again."""
    X = rng.normal(size=(n, 20, 100)) * 10 ** rng.normal(size=100)
    c = count * np.eye(20)[rng.integers(20, size=n)]
    policy = BayesianQProbePolicy("choice").fit(X, c)
    same = BayesianQProbePolicy("choice", alpha=policy.alpha_).fit(X, c)
    assert_allclose(same.coef_, policy.coef_, rtol=1e-4, atol=1e-8)
    assert_array_equal(policy.predict(X), c.argmax(axis=1))


def test_evidence_of_choices_finds_the_prior(rng):
    X, c, _ = make_data(rng, 2000, 4, 40, 2.0, "choice")
    assert BayesianQProbePolicy("choice").fit(X, c).alpha_ == pytest.approx(2, rel=0.5)


def test_choices_in_the_span_of_few_rows_are_those_of_all_features(rng):
    X, c, _ = make_data(rng, 5, 4, 50, 1.0, "choice")
    wide = BayesianQProbePolicy("choice", alpha=1.0).fit(X, c)
    mode = minimize(choice_objective, np.zeros(50), args=(X, c, 1.0), tol=1e-10).x
    assert_allclose(wide.coef_, mode, atol=1e-4)
    assert wide.factor_.shape == (15, 50)


def test_separable_choices_without_a_penalty_converge_or_warn(rng):
    X = rng.normal(size=(30, 4, 3))
    c = np.eye(4)[X[..., 0].argmax(axis=1)]
    policy = BayesianQProbePolicy("choice", alpha=1e-8).fit(X * 1e3, c)
    assert_array_equal(policy.predict(X), X[..., 0].argmax(axis=1))
    with pytest.warns(ConvergenceWarning, match="max_iter=2 iterations"):
        BayesianQProbePolicy("choice", alpha=1e-8, max_iter=2).fit(X, c)


def hmc(X, c, alpha, rng, n_samples, n_steps=12):
    """Sample the posterior of choices by Hamiltonian Monte Carlo."""
    mode = minimize(choice_objective, np.zeros(X.shape[2]), args=(X, c, alpha)).x
    q = softmax(X @ mode, axis=1)
    hessian = alpha * np.eye(len(mode))
    for x, p in zip(X, q, strict=True):
        hessian += x.T @ (np.diag(p) - np.outer(p, p)) @ x
    root = np.linalg.cholesky(np.linalg.inv(hessian))

    def slope(position):
        theta = mode + root @ position
        error = softmax(X @ theta, axis=1) * c.sum(axis=1, keepdims=True) - c
        return root.T @ (np.einsum("pk,pkd->d", error, X) + alpha * theta)

    def energy(position):
        return choice_objective(mode + root @ position, X, c, alpha)

    position, samples = np.zeros(len(mode)), []
    for _ in range(n_samples):
        momentum = rng.normal(size=len(mode))
        step = rng.uniform(0.1, 0.3)
        new, moved = position.copy(), momentum - step / 2 * slope(position)
        for i in range(n_steps):
            new = new + step * moved
            moved = moved - step * (1 if i < n_steps - 1 else 0.5) * slope(new)
        change = (
            energy(new) - energy(position) + (moved @ moved - momentum @ momentum) / 2
        )
        if np.log(rng.random()) < -change:
            position = new
        samples.append(mode + root @ position)
    return np.array(samples)


@pytest.mark.slow
def test_laplace_agrees_with_hamiltonian_monte_carlo(rng):
    X, c, _ = make_data(rng, 150, 4, 4, 1.0, "choice")
    policy = BayesianQProbePolicy("choice", alpha=1.0, n_draws=20_000, random_state=0)
    policy.fit(X, c)
    samples = hmc(X, c, 1.0, rng, 4000)
    std = np.sqrt(dense_covariance(policy).diagonal())
    assert_allclose(samples.mean(axis=0), policy.coef_, atol=0.3 * std.max())
    assert_allclose(samples.std(axis=0), std, rtol=0.15)
    new = rng.normal(size=(30, 3, 4))
    best = (new @ samples.T).argmax(axis=1)
    shares = np.stack([(best == i).mean(axis=1) for i in range(3)], axis=1)
    assert_allclose(policy.predict_best_proba(new), shares, atol=0.06)
    values = centered(new @ samples.T)
    _, spread = policy.decision_function(new, return_std=True)
    assert_allclose(spread, values.std(axis=2), rtol=0.15)


# Updates


@pytest.mark.parametrize("d", [4, 30, 100])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_partial_fits_are_one_fit(rng, d, order):
    X, y, _ = make_data(rng, 40, 5, d, 1.0, "gaussian")
    weight = rng.integers(1, 4, size=40)
    whole = BayesianQProbePolicy().fit(X, y, sample_weight=weight)
    batches = np.split(np.arange(40), [1, 4, 20])
    policy = BayesianQProbePolicy()
    for number in order:
        rows = batches[number]
        policy.partial_fit(X[rows], y[rows], sample_weight=weight[rows])
    for name in ("coef_", "alpha_", "noise_variance_", "log_evidence_"):
        assert_allclose(
            getattr(policy, name), getattr(whole, name), rtol=1e-8, atol=1e-10
        )
    assert_allclose(
        dense_covariance(policy), dense_covariance(whole), rtol=1e-8, atol=1e-10
    )


def test_partial_fits_in_both_layouts_agree(rng):
    X, y, _ = make_data(rng, 12, 5, 4, 1.0, "gaussian")
    sets, rows = BayesianQProbePolicy(), BayesianQProbePolicy()
    for part in (slice(0, 5), slice(5, 12)):
        sets.partial_fit(X[part], y[part])
        rows.partial_fit(*as_rows(X[part], y[part]))
    assert_allclose(rows.coef_, sets.coef_, rtol=1e-10)


def test_partial_fits_of_choices_are_near_one_fit(rng):
    X, c, _ = make_data(rng, 400, 5, 6, 1.0, "choice")
    whole = BayesianQProbePolicy("choice").fit(X, c)
    policy = BayesianQProbePolicy("choice")
    for part in np.split(np.arange(400), 4):
        policy.partial_fit(X[part], c[part])
    std = np.sqrt(dense_covariance(whole).diagonal())
    assert abs(policy.coef_ - whole.coef_).max() < 0.5 * std.max()
    assert_allclose(
        dense_covariance(policy), dense_covariance(whole), atol=0.2 * std.max() ** 2
    )
    assert policy.log_evidence_ == pytest.approx(whole.log_evidence_, rel=0.01)
    first = BayesianQProbePolicy("choice").fit(X[:100], c[:100])
    assert abs(first.coef_ - whole.coef_).max() > abs(policy.coef_ - whole.coef_).max()


@every_likelihood
def test_forgetting_weights_earlier_data(rng, likelihood):
    X, y, _ = make_data(rng, 30, 4, 5, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood, alpha=1.0, forgetting_factor=0.25)
    policy.partial_fit(X[:10], y[:10]).partial_fit(X[10:20], y[10:20])
    policy.partial_fit(X[20:], y[20:])
    weight = np.repeat([0.0625, 0.25, 1.0], 10)
    whole = clone(policy).fit(X, y, sample_weight=weight)
    tol = 1e-9 if likelihood == "gaussian" else 0.1
    assert_allclose(policy.coef_, whole.coef_, rtol=tol, atol=tol)
    assert_allclose(policy.noise_variance_, whole.noise_variance_, rtol=tol)


def test_forgetting_follows_drift(rng):
    drifted = {}
    for factor in (1.0, 0.5):
        policy = BayesianQProbePolicy(forgetting_factor=factor)
        draws = np.random.default_rng(0)
        for night in range(10):
            theta = np.array([np.cos(night / 3), np.sin(night / 3), 0.0])
            X, y, _ = make_data(draws, 20, 5, 3, 1.0, "gaussian", theta)
            policy.partial_fit(X, y)
        drifted[factor] = np.corrcoef(policy.coef_, theta)[0, 1]
    assert drifted[0.5] > 0.95 > drifted[1.0]


@every_likelihood
def test_forgotten_data_have_no_effect(rng, likelihood):
    X, y, _ = make_data(rng, 20, 4, 5, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood, forgetting_factor=1e-300).fit(X, y)
    policy.partial_fit(X[:10], y[:10])
    new = BayesianQProbePolicy(likelihood).fit(X[:10], y[:10])
    assert_allclose(policy.coef_, new.coef_)
    with pytest.warns(UserWarning, match="informative"):
        policy.partial_fit(X[:, :1], y[:, :1])
    _, std = policy.decision_function(X, return_std=True)
    assert_allclose(std, np.sqrt((centered(X) ** 2).sum(axis=2)))  # of the prior


@every_likelihood
def test_saved_state_goes_on(rng, likelihood):
    X, y, _ = make_data(rng, 20, 4, 5, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood).fit(X[:10], y[:10])
    loaded = pickle.loads(pickle.dumps(policy))
    policy.partial_fit(X[10:], y[10:])
    loaded.partial_fit(X[10:], y[10:])
    assert_same_state(state_of(loaded), state_of(policy))


@every_likelihood
def test_fit_resets(rng, likelihood):
    X, y, _ = make_data(rng, 20, 4, 5, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood).partial_fit(X, y).partial_fit(X, y)
    once = BayesianQProbePolicy(likelihood).partial_fit(X, y)
    assert_same_state(state_of(policy.fit(X, y)), state_of(once))
    policy.fit(X[..., :2], y)  # another number of features


def test_saved_posterior_is_small(rng):
    X = rng.normal(size=(10, 4, 300)).astype(np.float32)
    policy = BayesianQProbePolicy(n_draws=100_000).fit(X, rng.normal(size=(10, 4)))
    assert policy.factor_.dtype == np.float32
    assert policy.factor_.shape == (30, 300)
    assert len(pickle.dumps(policy)) < 1.2 * 30 * 300 * 4 + 5000


# Weights, precision, degenerate data


def test_weights_of_zero_leave_out(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    weight = np.ones((10, 4))
    weight[3] = weight[5, :2] = 0
    rows, rewards, groups = (a[weight.ravel() > 0] for a in as_rows(X, y))
    kept = BayesianQProbePolicy().fit(rows, rewards, groups)
    policy = BayesianQProbePolicy().fit(X, y, sample_weight=weight)
    assert_allclose(policy.coef_, kept.coef_)
    assert policy.log_evidence_ == pytest.approx(kept.log_evidence_)


@every_likelihood
def test_missing_rewards_are_left_out(rng, likelihood):
    X, y, _ = make_data(rng, 20, 4, 3, 1.0, likelihood)
    known = rng.random((20, 4)) < 0.7
    rows, rewards, groups = (a[known.ravel()] for a in as_rows(X, y))
    expected = BayesianQProbePolicy(likelihood).fit(rows, rewards, groups)
    unknown = np.where(known, y, np.nan)
    for missing, weight in (("ignore", None), ("raise", known * 1.0)):
        policy = BayesianQProbePolicy(likelihood, missing=missing)
        policy.fit(X, unknown, sample_weight=weight)
        assert_allclose(policy.coef_, expected.coef_)
        assert policy.log_evidence_ == pytest.approx(expected.log_evidence_)
        score = policy.score(X, unknown, sample_weight=weight)
        assert score == pytest.approx(expected.score(rows, rewards, groups))
        policy.partial_fit(X, unknown, sample_weight=weight)
    policy = BayesianQProbePolicy(likelihood)
    assert_refused(policy.fit, "missing='ignore'", X, unknown)


def test_weights_of_less_than_two_candidates(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    weight = np.full((10, 4), 0.25)
    policy = BayesianQProbePolicy()
    words = "sums to at most 1 in every prompt.*one weight per prompt"
    assert_refused(policy.fit, words, X, y, sample_weight=weight)
    weight[:4] = 1  # the others cannot be compared
    policy.fit(X, y, sample_weight=weight)
    assert policy.n_skipped_prompts_ == 6
    assert_allclose(policy.coef_, BayesianQProbePolicy().fit(X[:4], y[:4]).coef_)


@pytest.mark.parametrize("scale", [1e-6, 0.25, 1e12, 1e100])
def test_scale_of_choices(rng, scale):
    X, c, _ = make_data(rng, 40, 4, 3, 1.0, "choice")
    policy = BayesianQProbePolicy("choice", alpha=2.0 * scale)
    expected = BayesianQProbePolicy("choice", alpha=2.0).fit(X, c)
    policy.fit(X, c, sample_weight=np.full(40, scale))
    assert_allclose(policy.coef_, expected.coef_, rtol=1e-4)
    weight = np.full((40, 4), scale)  # of candidates: 0.25 is no choice of one copy
    assert_allclose(
        policy.fit(X, c, sample_weight=weight).coef_, expected.coef_, rtol=1e-4
    )


@pytest.mark.parametrize("n", [10, 40], ids=["few rows", "many rows"])
def test_large_problems_in_float32_are_those_in_float64(rng, monkeypatch, n):
    X, y, _ = make_data(rng, n, 5, 60, 20.0, "gaussian")
    X = X.astype(np.float32)
    small = BayesianQProbePolicy().fit(X, y)
    monkeypatch.setattr(_posterior, "LARGE", 10)
    large = BayesianQProbePolicy().fit(X, y)
    assert_allclose(large.coef_, small.coef_, rtol=1e-3, atol=1e-5)
    assert large.log_evidence_ == pytest.approx(small.log_evidence_, rel=1e-4)
    assert (large.coef_ != small.coef_).any()


@every_likelihood
@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_scale_of_embeddings_and_rewards(rng, likelihood, scale):
    X, y, _ = make_data(rng, 20, 4, 5, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood).fit(X, y)
    other = BayesianQProbePolicy(likelihood).fit(scale * X, y)
    assert_allclose(scale * other.coef_, policy.coef_, rtol=1e-6)
    assert other.alpha_ / scale**2 == pytest.approx(policy.alpha_, rel=1e-6)
    assert other.log_evidence_ == pytest.approx(policy.log_evidence_)
    if likelihood == "gaussian":
        other = BayesianQProbePolicy().fit(X, scale * y)
        assert_allclose(other.coef_ / scale, policy.coef_, rtol=1e-9)
        assert other.alpha_ == pytest.approx(policy.alpha_)


@every_likelihood
def test_offset_of_the_columns_costs_no_precision(rng, likelihood):
    X, y, _ = make_data(rng, 20, 4, 5, 1.0, likelihood)
    policy = BayesianQProbePolicy(likelihood).fit(X, y)
    other = BayesianQProbePolicy(likelihood).fit((X + 1000).astype("f4"), y)
    assert_allclose(other.coef_, policy.coef_, atol=1e-3 * abs(policy.coef_).max())


@every_likelihood
def test_nothing_to_learn_warns(rng, likelihood):
    X, rows = rng.normal(size=(5, 1, 3)), rng.normal(size=(5, 3))
    for data in ((X, np.ones((5, 1))), (rows, np.ones(5))):
        with pytest.warns(UserWarning, match="informative|no groups"):
            policy = BayesianQProbePolicy(likelihood).fit(*data)
        assert_array_equal(policy.coef_, 0)
        assert policy.n_skipped_prompts_ == 5
    with pytest.warns(UserWarning, match="informative"):
        zeros = BayesianQProbePolicy(likelihood).fit(
            rng.normal(size=(5, 2, 3)), np.zeros((5, 2))
        )
    proba = zeros.predict_best_proba(rng.normal(size=(4, 2, 3)))
    assert_allclose(proba, 0.5, atol=0.06)  # the prior has no preference
    policy = policy.partial_fit(*make_data(rng, 5, 2, 3, 1.0, likelihood)[:2])
    assert policy.coef_.any()


@every_likelihood
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_embeddings_or_rewards_teach_nothing(rng, likelihood, dtype):
    constant = np.repeat(rng.normal(size=(20, 1, 3)) + 10, 3, axis=1).astype(dtype)
    y = np.eye(3)[rng.integers(0, 3, size=20)]
    with pytest.warns(UserWarning, match="informative"):
        policy = BayesianQProbePolicy(likelihood).fit(constant, y)
    assert_array_equal(policy.coef_, 0)
    if likelihood == "gaussian":
        with pytest.warns(UserWarning, match="informative"):
            policy.fit(rng.normal(size=(20, 3, 3)).astype(dtype), np.full((20, 3), 0.1))
        assert_array_equal(policy.coef_, 0)


def test_equal_candidates_share_the_best(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    policy = BayesianQProbePolicy(random_state=0).fit(X, y)
    new = np.repeat(rng.normal(size=(2, 1, 3)), 4, axis=1)
    assert_allclose(policy.predict_best_proba(new), 0.25)
    assert_allclose(policy.decision_function(new, return_std=True)[1], 0, atol=1e-7)


def test_offset_moves_the_best(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    policy = BayesianQProbePolicy(random_state=0).fit(X, y)
    offset = np.zeros((10, 4))
    offset[:, 2] = 100
    assert_array_equal(policy.predict_best_proba(X, offset=offset)[:, 2], 1)
    Q, _ = policy.decision_function(X, return_std=True, offset=offset)
    assert_allclose(Q - policy.decision_function(X), offset, atol=1e-12)


def test_groups_are_routed_to_the_spread(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    rows, rewards, groups = as_rows(X, y)
    expected = make_pipeline(PerCandidate(StandardScaler()), BayesianQProbePolicy())
    expected.fit(X, y)
    with config_context(enable_metadata_routing=True):
        model = make_pipeline(StandardScaler(), BayesianQProbePolicy())
        model.fit(rows, rewards, groups=groups)
        Q, std = model.decision_function(rows, groups=groups, return_std=True)
    assert_allclose(Q, expected.decision_function(X).ravel())
    Xc = centered_in_prompts(model[:-1].transform(rows), groups)
    variances = np.einsum("ni,ij,nj->n", Xc, dense_covariance(model[-1]), Xc)
    assert_allclose(std, np.sqrt(variances))


# Errors


def test_bad_input(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    policy = BayesianQProbePolicy().fit(X, y)
    both = np.stack([y, y], axis=2)
    assert_refused(policy.fit, "y has several objectives.*weighted sum", X, both)
    assert_refused(policy.partial_fit, "y has several objectives", X, both)
    assert_refused(policy.partial_fit, "features", X[..., :2], y)
    assert_refused(policy.partial_fit, "NaN", X, np.full_like(y, np.nan))
    policy.set_params(forgetting_factor=2.0)
    assert_refused(policy.partial_fit, "'forgetting_factor' parameter", X, y)
    policy.set_params(forgetting_factor=1.0, likelihood="choice")
    assert_refused(policy.partial_fit, "call fit to begin again", X, y)
    assert_refused(policy.fit, "y has negative numbers.*number of times", X, y)
    for name, value in (
        ("alpha", 0),
        ("alpha", -1.0),
        ("likelihood", "probit"),
        ("n_draws", 0),
        ("forgetting_factor", 0.0),
        ("forgetting_factor", 1.5),
        ("tol", 0),
    ):
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            BayesianQProbePolicy(**{name: value}).fit(X, abs(y))


def test_arguments_are_not_changed(rng):
    X, y, _ = make_data(rng, 10, 4, 3, 1.0, "gaussian")
    before = copy.deepcopy((X, y))
    policy = BayesianQProbePolicy().fit(X, y)
    policy.partial_fit(X, y)
    policy.predict_best_proba(X)
    policy.decision_function(X, return_std=True)
    assert_array_equal(X, before[0])
    assert_array_equal(y, before[1])


def test_reward_on_the_two_words_is_that_of_cross_validation():
    X, y = load_two_words(return_X_y=True)
    policy = BayesianQProbePolicy().fit(X[:40], y[:40])
    searched = QProbePolicyCV(["pairwise_logistic"]).fit(X[:40], y[:40])
    assert policy.score(X[160:], y[160:]) > searched.score(X[160:], y[160:]) - 0.02
