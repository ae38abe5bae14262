"""SiblingFeatures of the partitions of a Dask collection."""

import copy
from itertools import chain

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from skqprobe._arrays.blocks import compute_dtype
from skqprobe._arrays.collections import Parts
from skqprobe._arrays.columns import pool_scaler, summarize_columns
from skqprobe._arrays.views import check_views, with_views
from skqprobe._candidates.partitions import check_partitions
from skqprobe._candidates.validation import no_groups
from skqprobe._utils.warn import warn_user
from skqprobe.preprocessing._sibling_sampling import (
    count_pairs,
    keep_sampled,
    sampled_candidates,
    sampling_step,
)


class _Block:
    """Checked embeddings of a partition, on its worker."""

    def __init__(self, X, layout):
        self.X, self.layout = X, layout

    def __sizeof__(self):
        return object.__sizeof__(self) + self.X.nbytes + self.layout.offsets.nbytes


def fit_to_partitions(siblings, X, groups):
    """Return SiblingFeatures with the scales of a Dask collection.

    They are learned from the same sample of prompts as in one process.
    """
    partitions = check_partitions(X, groups=groups)
    fitted, n_features = copy.copy(siblings), partitions.n_features
    validate_data(fitted, partitions.frame, skip_check_array=True)
    fitted.views_ = check_views(siblings.view_sizes, partitions.named, n_features)
    _warn_of_partitions(partitions)
    blocks = partitions.map(_check_block, "groups", arguments=(_bare(fitted),))
    counts = blocks.collect(_count_block)
    step = sampling_step(sum(n_pairs for _, n_pairs in counts))
    before = np.cumsum([0, *(n_prompts for n_prompts, _ in counts)]).tolist()
    skips = Parts.scatter(before[:-1])
    n_sampled = blocks.total(_count_sampled, step, each=[skips])
    some = sampled_candidates(n_sampled)
    sampled = blocks.collect(_sample_block, fitted, step, some, each=[skips])
    fitted._learn_scales(list(chain(*each)) for each in zip(*sampled, strict=True))
    views = [view for view, _ in fitted._sibling_views()]
    keeps = siblings.embedding != "drop"
    summaries = zip(*blocks.collect(_summarize_block, fitted, keeps), strict=True)
    features, *columns = (
        pool_scaler(StandardScaler(), each).var_ for each in summaries
    )
    variance = sum(columns[0][view].sum() for view in views) if keeps else 0.0
    fitted._set_feature_scales(np.sqrt(features), variance)
    return fitted


def _warn_of_partitions(partitions):
    """Warn of rows without groups."""
    if len(partitions.shape) == 1 and partitions.others["groups"] is None:
        warn_user(no_groups())


def _bare(fitted):
    """Return a copy for the partitions, which are arrays without names."""
    bare = fitted._snapshot()
    vars(bare).pop("feature_names_in_", None)
    return bare


def _check_block(block, start, fitted):
    X, groups = block
    return _Block(*fitted._check_input(X, groups, reset=False, is_part=True))


def _count_block(block):
    return block.layout.n_prompts, count_pairs(block.layout)


def _count_sampled(block, skip, step):
    return count_pairs(keep_sampled(block.layout, step, skip))


def _sample_block(block, skip, fitted, step, some):
    layout, views = keep_sampled(block.layout, step, skip), fitted._sibling_views()
    if layout.n_prompts == 0:
        return [[] for _ in views]
    return [fitted._sample_distances(block.X, layout, view, some) for view in views]


def _summarize_block(block, fitted, keeps):
    features = fitted._compute_features(block.X, block.layout)
    arrays = [features, block.X] if keeps else [features]
    return [summarize_columns(each, StandardScaler) for each in arrays]


def transform_partitions(siblings, X, groups):
    """Make the array of the results of `transform` for all partitions."""
    check_is_fitted(siblings, "feature_scales_")
    partitions = check_partitions(X, groups=groups)
    fitted = siblings._snapshot()
    validate_data(fitted, partitions.frame, skip_check_array=True, reset=False)
    _warn_of_partitions(partitions)
    kept = 0 if fitted.embedding == "drop" else partitions.n_features
    n_features = kept + len(fitted.feature_scales_)
    X = partitions.X
    dtype = compute_dtype(X) if X.dtype.kind == "f" else np.dtype(float)
    out = partitions.lazily(
        _transform_block,
        "transform",
        "iko" if len(partitions.shape) == 2 else "io",
        {"o": n_features},
        dtype,
        fitted=_bare(fitted),
    )
    return with_views(partitions.as_user(out), fitted._views_out(kept, n_features))


def _transform_block(X, *groups, keys, fitted):
    (groups,) = groups or (None,)
    X, layout = fitted._check_input(X, groups, reset=False, is_part=True)
    features = fitted._compute_features(X, layout) * fitted.feature_scales_
    return fitted._joined(X, layout, features)
