"""Training data in the partitions of a Dask collection."""

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any
from uuid import uuid4

import numpy as np
from sklearn.model_selection import check_cv
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import validate_data

from skqprobe._arrays.blocks import compute_dtype
from skqprobe._arrays.collections import (
    Parts,
    add_each,
    generator_states,
    in_partition,
)
from skqprobe._arrays.columns import pool_scaler, summarize_columns
from skqprobe._arrays.magnitude import (
    LARGEST,
    SMALLEST,
    check_magnitude,
    largest_magnitude,
)
from skqprobe._arrays.part_rows import PartRows, RowParts
from skqprobe._arrays.views import check_views
from skqprobe._candidates.partitions import check_partitions, names_of_rewards
from skqprobe._candidates.segments import repeat_per_prompt
from skqprobe._candidates.validation import NO_KNOWN_WEIGHT, NO_WEIGHT
from skqprobe._estimators._fit import (
    NO_REWARDS,
    check_loss,
    check_reward_magnitudes,
    check_training_data,
    informative_rewards,
    split_candidates,
    warn_of_column,
    weighted_layout,
)
from skqprobe._estimators._folds import Folds, split_data
from skqprobe._estimators._view_search import SampledPrompts, sample_prompts
from skqprobe._objectives.distributed import (
    DistributedObjective,
    OwnSettings,
    PartGrid,
    Settings,
    Source,
    sizes_of,
)
from skqprobe._objectives.grid import WholeGrid
from skqprobe._objectives.linear import LinearObjective

MAX_KEPT = 6
"""Maximum number of grids, and of their weights of rows, that a partition keeps."""


class Partition:
    """Checked training data of one partition, on its worker.

    Parameters
    ----------
    data : TrainingData
        Data, with `PartRows` in place of X.
    weighted : tuple
        Result of `weighted_layout`.
    summary : Summary
        Properties.
    """

    def __init__(self, data, weighted, summary):
        # A message leaves arrays unaligned, of which numpy adds the products in another
        # order, and slowly.
        rewards = np.require(data.rewards, None, "A")
        self.data, self.weighted = replace(data, rewards=rewards), weighted
        self.X, self.summary, self._kept = data.X, summary, {}

    def __sizeof__(self):
        arrays = self.data.rewards, self.weighted[0].offsets
        return object.__sizeof__(self) + sum(each.nbytes for each in arrays)

    def __reduce__(self):
        return Partition, (self.data, self.weighted, self.summary)

    def kept(self, key, make):
        """Make an object of this partition, or find one of the last again."""
        if key not in self._kept:
            while len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = make()
        return self._kept[key]

    def grid(self, settings, own):
        """Make the grid of the objectives of this partition, or find it again."""
        return self.kept(settings.key, lambda: self._make_grid(settings, own))

    def _make_grid(self, settings, own):
        random_state = None
        if settings.n_candidates is not None:
            random_state = np.random.RandomState()
            random_state.set_state(own.split)
        layout, arguments, _ = split_candidates(
            self.weighted, settings.n_candidates, random_state
        )
        objectives: list[LinearObjective] = []
        for rewards, each in informative_rewards(
            self.data, settings.informing_loss, layout, arguments
        ):
            if settings.weights is not None:
                each["whole_weight"] = settings.weights[len(objectives)]
            if own.noise is not None:
                each["noise"] = own.noise[0]
            objectives.append(
                LinearObjective(
                    self.data.X,
                    layout,
                    rewards,
                    settings.loss,
                    alpha=0.0,
                    fit_intercept=settings.fit_intercept,
                    center=settings.center,
                    columns=settings.columns,
                    **each,
                )
            )
        if own.in_fold is None:
            return WholeGrid(objectives)
        return PartGrid(objectives, settings, own)


@dataclass(frozen=True)
class Summary:
    """Properties of a partition that the client needs.

    Parameters
    ----------
    sizes : tuple
        Smallest and largest number of candidates of a prompt, before weights.
    n_rows, n_prompts : int
        Numbers that have a weight and a reward; no prompts if all have the weight 0.
    max_size : int
        Largest number of candidates of a prompt among these.
    has_reward : bool
        Whether a candidate has a reward.
    dtype : dtype
        Type of X.
    rewards : ndarray of shape (2, n_rewards)
        Smallest and largest rewards.
    magnitude : float
        Largest magnitude in X.
    """

    sizes: tuple
    n_rows: int
    n_prompts: int
    max_size: int
    has_reward: bool
    dtype: Any
    rewards: Any
    magnitude: float


def _check_partition(recipe, block, start, estimator, reset):
    """Make a Partition, or the error in its place."""
    X, y, groups, sample_weight = block
    try:
        data = check_training_data(
            estimator,
            recipe() if X is None else X,
            y,
            groups,
            sample_weight,
            reset=reset,
            is_part=True,
        )
        if data.is_vector and y.ndim == len(data.layout.shape):
            raise ValueError(
                "y is a Dask array of dicts, whose names are not known before it is "
                "computed. Pass a Dask data frame with one column per objective."
            )
        weighted = weighted_layout(data.layout, sample_weight, data.known, True)
    except (ValueError, TypeError) as error:
        return in_partition(error, start)
    X = data.X
    rows = PartRows(X.shape, X.dtype, recipe)
    summary = _summarize(data, weighted)
    return Partition(replace(data, X=rows), weighted, summary)


def _summarize(data, weighted):
    layout, rewards = weighted[0], data.rewards.reshape(data.layout.n_rows, -1)
    return Summary(
        (data.layout.sizes.min(), data.layout.sizes.max()),
        int(layout.n_rows),
        layout.n_prompts * bool(weighted[1].any()),
        int(layout.sizes.max(initial=0)),
        data.known is None or bool(data.known.any()),
        data.X.dtype,
        np.array([rewards.min(axis=0), rewards.max(axis=0)]),
        largest_magnitude(data.X) if data.X.dtype == np.float64 else 1.0,
    )


def _summary_of(partition):
    return partition if isinstance(partition, Exception) else partition.summary


def check_partitioned_data(estimator, X, y, groups, sample_weight, reset=True):
    """Validate training data in Dask collections; see `check_training_data`."""
    partitions = check_partitions(X, y=y, groups=groups, sample_weight=sample_weight)
    checked, n_features = copy.copy(estimator), partitions.n_features
    validate_data(checked, partitions.frame, skip_check_array=True, reset=reset)
    view_sizes = getattr(estimator, "view_sizes", None)
    views = check_views(view_sizes, partitions.named, n_features)
    names = ("n_features_in_", "feature_names_in_")
    features = {name: vars(checked)[name] for name in names if name in vars(checked)}
    objective_names = names_of_rewards(y, partitions.shape)
    if objective_names is not None:
        features["objective_names_"] = objective_names
    params = estimator.get_params(deep=False)
    bare = type(estimator)(
        **params | {"view_sizes": None} if "view_sizes" in params else params
    )
    bare.n_features_in_ = n_features
    parts = partitions.check(
        _check_partition, "y", "groups", "sample_weight", arguments=(bare, reset)
    )
    summaries = parts.parts.collect(_summary_of)
    for summary in summaries:
        if isinstance(summary, Exception):
            raise summary
    if not any(summary.has_reward for summary in summaries):
        raise ValueError(NO_REWARDS)
    if not any(summary.n_prompts for summary in summaries):
        is_known = estimator.missing == "ignore"
        raise ValueError(NO_KNOWN_WEIGHT if is_known else NO_WEIGHT)
    dtype = summaries[0].dtype
    if dtype == np.float64:
        largest = max(summary.magnitude for summary in summaries)
        check_magnitude(np.float64(largest), "X", SMALLEST, LARGEST)
    lowest = np.min([summary.rewards[0] for summary in summaries], axis=0)
    highest = np.max([summary.rewards[1] for summary in summaries], axis=0)
    y_shape = partitions.others["y"].shape
    is_vector = len(y_shape) > len(partitions.shape)
    keys = [f"y[..., {j}]" for j in range(len(lowest))] if is_vector else ["y"]
    ranges = dict(zip(keys, np.transpose([lowest, highest]), strict=True))
    check_reward_magnitudes(ranges, dtype)
    warn_of_column(estimator, partitions.shape, y_shape)
    grouped = len(partitions.shape) == 2 or groups is not None
    smallest, largest = np.transpose([summary.sizes for summary in summaries])
    if len(partitions.shape) == 1 and grouped and smallest.min() < largest.max():
        mean = partitions.X.shape[0] / sum(partitions.n_prompts)
        features["_mean_group_size_"] = float(mean)
    used = [summary.n_rows > 0 for summary in summaries]
    return PartitionedData(
        parts,
        parts.keep(used),
        [summary for summary in summaries if summary.n_rows],
        used,
        grouped,
        is_vector,
        ranges,
        dtype,
        features,
        views,
        partitions,
    )


@dataclass(frozen=True)
class PartitionedData:
    """Checked training data in partitions, in place of `TrainingData`.

    Parameters
    ----------
    all_parts, parts : RowParts
        All `Partition` objects, and those with candidates that have a weight.
    summaries : list of Summary
        Properties of the latter.
    used : list of bool
        Whether each part is among the latter.
    grouped, is_vector : bool
        Whether rows share prompts, and whether rewards have an axis of objectives.
    rewards_by_name : dict of ndarray of shape (2,)
        Range of the rewards of each objective.
    dtype : dtype
        Type of X.
    features, views : dict
        See `TrainingData`.
    partitions : Partitions
        Arguments of `fit`.
    """

    all_parts: RowParts
    parts: RowParts
    summaries: list
    used: list
    grouped: bool
    is_vector: bool
    rewards_by_name: dict
    dtype: Any
    features: dict
    views: dict
    partitions: Any

    @property
    def n_features(self):
        """Number of columns of X."""
        return self.features["n_features_in_"]

    @property
    def max_size(self):
        """Largest number of candidates of a prompt."""
        return max(summary.max_size for summary in self.summaries)

    @property
    def rewards(self):
        """Smallest and largest rewards."""
        return np.array(list(self.rewards_by_name.values()))

    @cached_property
    def columns(self):
        """Mean and scale of the columns of X, those of StandardScaler."""
        summaries = self.all_parts.collect(_summarize_columns)
        scaler = pool_scaler(StandardScaler(), summaries)
        return scaler.mean_, scaler.scale_

    def make_folds(self, cv):
        """Split the prompts; see `make_folds`."""
        n_prompts = self.partitions.n_prompts
        is_sets = len(self.partitions.shape) == 2
        if not (cv is None or isinstance(cv, Integral) or is_sets):
            raise ValueError(
                "cv must be the number of folds for rows in a Dask collection. Pass "
                "sets, an int, or X.compute()."
            )
        n = sum(n_prompts)
        try:
            splits = list(check_cv(cv).split(np.zeros(n)))
        except (TypeError, ValueError) as error:
            if cv is None or isinstance(cv, Integral):
                raise
            raise ValueError(
                f"cv cannot split prompts in a Dask collection: {error} Use an int, or "
                "a splitter that needs neither y nor groups."
            ) from error
        if not splits:
            raise ValueError("cv has no splits; give at least one.")
        if not all(len(side) for split in splits for side in split):
            raise ValueError("cv has a split without training or without test data.")
        copies = np.zeros((2, len(splits), n), dtype=np.int32)
        for number, sides in enumerate(splits):
            for side, indices in enumerate(sides):
                np.add.at(copies[side, number], indices, 1)
        pieces = np.split(copies, np.cumsum(n_prompts)[:-1], axis=2)
        pieces = [piece for piece, used in zip(pieces, self.used, strict=True) if used]
        return PartitionedFolds(self, Parts.scatter(pieces), len(splits))

    def check_loss(self, loss):
        """Raise unless a loss is defined for the rewards of all objectives."""
        for error in self.parts.collect(_loss_error, loss, reads=False):
            if error is not None:
                raise error

    def make_objectives(self, loss, n_candidates, random_state, settings):
        """Make the objectives, one per reward; see `make_objectives`.

        Parameters
        ----------
        loss : BaseLoss
            Loss.
        n_candidates : int or None
            Maximum size of a set.
        random_state : RandomState instance
            Generator of the sets.
        settings : dict
            Other settings of an objective.
        """
        n_rows = [summary.n_rows for summary in self.summaries]
        splits = [None] * len(n_rows)
        if n_candidates is not None:
            n_candidates = min(n_candidates, self.max_size)
            draw = np.random.RandomState.random_sample
            splits = generator_states(random_state, n_rows, draw)
        draw = np.random.RandomState.standard_normal
        noise = generator_states(np.random.RandomState(0), n_rows, draw)
        own = [
            OwnSettings(split, [state])
            for split, state in zip(splits, noise, strict=True)
        ]
        of_all = Settings(
            uuid4().hex,
            loss,
            settings["fit_intercept"],
            loss,
            columns=settings["columns"],
            n_candidates=n_candidates,
        )
        source = Source(self.parts, Parts.scatter(own), of_all)
        counts = source.collect(_count_prompts, reads=False)
        n_prompts, skipped, weights, sizes = zip(*counts, strict=True)
        weights = np.sum(weights, axis=0)
        source = source.changed(weights=weights)
        return [
            DistributedObjective(
                source,
                number,
                loss,
                dtype=compute_dtype(self),
                n_features=self.n_features,
                n_rows=sum(n_rows),
                n_prompts=sum(n_prompts),
                total_weight=weight,
                sizes=list(sizes),
                n_skipped=int(n_skipped),
                **settings,
            )
            for number, (weight, n_skipped) in enumerate(
                zip(weights, np.sum(skipped, axis=0), strict=True)
            )
        ]


@dataclass(frozen=True)
class PartitionedFolds:
    """Folds of prompts in partitions, in place of `Folds`.

    Parameters
    ----------
    data : PartitionedData
        Training data.
    copies : Parts
        Arrays of shape (2, n_folds, n_prompts): number of times to train on each prompt
        of a partition, and to score on it.
    n_folds : int
        Number of folds.
    """

    data: PartitionedData
    copies: Parts
    n_folds: int

    def train_with(self, with_all):
        """Return the prompts to train on, with a fold of all prompts or without."""
        return self.data.parts.map(_train, with_all, each=[self.copies])

    def score(self, policies):
        """Compute rewards and held-out losses of policies; see `Policies.means`."""
        copies, add = [self.copies], add_each
        terms = self.data.parts.total(_fold_terms, policies, each=copies, add=add)
        return policies.means(terms, self.data.grouped)

    def sample_prompts(self, data, sample_weight, objective_weights):
        """Sample prompts from which to choose the weights of views."""
        counts = np.array(data.parts.collect(_count_used))
        skips = Parts.scatter((np.cumsum(counts[:, 0]) - counts[:, 0]).tolist())
        pieces = data.parts.collect(
            _sample_prompts,
            objective_weights,
            int(counts[:, 1].sum()),
            each=[self.copies, skips],
        )
        columns = zip(*(vars(piece).values() for piece in pieces), strict=True)
        joined = [
            None if each[0] is None else np.concatenate(each, axis=-1 if i > 4 else 0)
            for i, each in enumerate(columns)
        ]
        return SampledPrompts(*joined)


def _split_part(partition, copies):
    """Make the arrays of `make_folds` for a part."""
    layout = partition.data.layout
    rows = [
        [
            layout.to_user_order(repeat_per_prompt(each, layout.offsets)).reshape(-1)
            for each in sides
        ]
        for sides in copies
    ]
    return split_data(partition.data, partition.weighted, zip(*rows, strict=True))


def _train(partition, copies, with_all):
    return Folds(*_split_part(partition, copies)).train_with(with_all)


def _fold_terms(partition, copies, policies):
    """Sum rewards and losses; see `Policies.terms`."""
    _, held_out = _split_part(partition, copies)
    return policies.terms(held_out)


def _count_used(partition):
    """Count prompts with a weight, and their rows."""
    layout, prompt_weight, _ = partition.weighted
    used = prompt_weight > 0
    return used.sum(), layout.sizes[used].sum()


def _sample_prompts(partition, copies, skip, objective_weights, n_rows):
    folds = _split_part(partition, copies)
    arguments = partition.data, partition.weighted, folds, objective_weights
    return sample_prompts(*arguments, n_rows, skip)


def _summarize_columns(partition):
    return summarize_columns(partition.data.X, StandardScaler)


def _loss_error(partition, loss):
    try:
        check_loss(loss, partition.data)
    except ValueError as error:
        return error


def _count_prompts(grid):
    """Count prompts, those left out, and sum the weights, per reward; list sizes."""
    skipped = [each.n_skipped for each in grid.objectives]
    weights = [each.total_weight for each in grid.objectives]
    first = grid.objective
    return first.n_prompts, np.array(skipped), np.array(weights), sizes_of(first)
