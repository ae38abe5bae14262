"""Objectives whose data are in the partitions of a Dask collection.

Each worker holds the objectives of its partitions. An evaluation sends the parameters
to all partitions, and adds their terms in a tree. The solvers run in the client.
"""

import copy
import operator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from skqprobe._arrays.blocks import rows_at_once
from skqprobe._arrays.collections import Parts, add_each, generator_states
from skqprobe._arrays.part_rows import RowParts
from skqprobe._arrays.threads import one_thread
from skqprobe._candidates.layout import Layout
from skqprobe._objectives.grid import GridObjective, WholeGrid, restrict
from skqprobe._objectives.linear import (
    MEAN_ROWS,
    SPAN_ROWS,
    LinearObjective,
    block_starts,
    choose_blocks,
    rows_of_block,
)
from skqprobe._objectives.parameters import LinearParameters

GATHERED_BYTES = 2**30
"""Maximum number of bytes of an X that a closed form may read in one process, where it
has fewer rows than features."""


@dataclass(frozen=True)
class Settings:
    """Settings of the objectives of all partitions.

    Parameters
    ----------
    key : str
        Name of the settings, under which a partition keeps its objectives.
    loss, fit_intercept, center, columns
        See `Objective`.
    informing_loss : BaseLoss
        Loss that determines which prompts are informative.
    n_candidates : int or None
        Maximum size of the sets into which prompts are split.
    weights : ndarray of shape (n_rewards,), or None
        Sums of the weights of all prompts, per reward; None if they are not known yet.
    fold_weights : ndarray of shape (n_folds, n_rewards), or None
        Sums of the weights of the prompts of each fold; None without folds.
    """

    key: str
    loss: Any
    fit_intercept: bool
    informing_loss: Any
    center: Any = None
    columns: Any = None
    n_candidates: int | None = None
    weights: Any = None
    fold_weights: Any = None


@dataclass(frozen=True)
class OwnSettings:
    """Settings of one partition.

    Parameters
    ----------
    split : tuple or None
        State of the generator that splits prompts into sets.
    noise : list of tuple, or None
        State of the generator of `score_curvature` for each fold.
    in_fold : ndarray of int, of shape (n_folds, n_prompts), or None
        Number of times that each fold trains on each prompt; None without folds.
    """

    split: Any = None
    noise: Any = None
    in_fold: Any = None


class PartGrid(GridObjective):
    """Grid of folds of the prompts of one partition: its sums are terms of all.

    Parameters
    ----------
    objectives : list of LinearObjective
        Objectives of the partition, one per reward.
    settings, own : Settings, OwnSettings
        Settings of all partitions, and of this one.
    """

    def __init__(self, objectives, settings, own):
        self.settings, self.own = settings, own
        super().__init__(objectives, own.in_fold, [1.0])

    def _prepare(self):
        super()._prepare()
        if self.settings.fold_weights is None:  # not known yet
            return
        self.fold_objectives = [
            restrict(each, copies, weight, noise)
            for copies, weights, noise in zip(
                self.in_fold, self.settings.fold_weights, self.own.noise, strict=True
            )
            for each, weight in zip(self.objectives, weights, strict=True)
        ]

    def with_objectives(self, objectives):
        """Return the grid of other objectives."""
        return PartGrid(objectives, self.settings, self.own)


@dataclass(frozen=True)
class Source:
    """Partitions of the data, and the settings of their objectives.

    Parameters
    ----------
    parts : RowParts
        Partitions: objects with a method ``grid(settings, own)``, which returns a
        `WholeGrid` or, with folds, a `PartGrid`; and ``kept(key, make)``, which keeps
        other objects.
    own : Parts
        The `OwnSettings` of each partition.
    settings : Settings
        Settings of all partitions.
    """

    parts: RowParts
    own: Parts
    settings: Settings

    def changed(self, own=None, **changes):
        """Return the source with other settings."""
        settings = replace(self.settings, key=uuid4().hex, **changes)
        return Source(self.parts, self.own if own is None else own, settings)

    def total(self, function, *arguments, add=operator.add, **where):
        """Add the results of a function for the grid or an objective of each part."""
        return self._call(self.parts.total, function, arguments, add=add, **where)

    def collect(self, function, *arguments, **where):
        """List the results of a function for the grid or an objective of each part."""
        return self._call(self.parts.collect, function, arguments, **where)

    def map(self, function, *arguments, **where):
        """Leave the results of a function for each part on the workers."""
        return self._call(self.parts.map, function, arguments, **where)

    def _call(self, method, function, arguments, number=None, weight=None, **options):
        """Call a function for each part.

        Parameters
        ----------
        number : int, default=None
            Number of an objective, for which a function of an objective is called. It
            is not called for parts without its prompts, whose result is None.
        weight : RowWeights, default=None
            Weights of the rows of the objective: the last argument.
        **options
            Options of `RowParts`: an argument in `own` is the first one.
        """
        shared = self.settings, function, number, arguments, weight, np.geterr()
        return method(_on_part, *shared, each=[self.own], **options)


def _on_part(part, own, *rest):
    """Call a function for the grid of a part, or for one of its objectives."""
    *first, settings, function, number, arguments, weight, errors = rest
    with one_thread(), np.errstate(**errors):
        if weight is not None:
            arguments = *arguments, weight.of_part(part, own)
        target = part.grid(settings, own)
        if number is not None:
            of_all = target.objectives  # those of a grid with folds count from the end
            target = (of_all if number < 0 else target.fold_objectives)[number]
            if target.n_prompts == 0:
                return None
        return function(target, *first, *arguments)


@dataclass(frozen=True)
class CurvaturesOf:
    """Curvatures of some objectives of a grid, computed and kept on the workers.

    Parameters
    ----------
    key : str
        Name, under which a partition keeps them.
    settings : Settings
        Settings of the grid.
    thetas, which : ndarray
        Arguments of `GridObjective.score_curvatures`.
    """

    key: str
    settings: Settings
    thetas: Any
    which: Any

    def of_part(self, part, own):
        """Return the curvatures of the rows of a part."""
        grid = part.grid(self.settings, own)
        return part.kept(
            self.key, lambda: grid.score_curvatures(self.thetas, self.which)
        )


@dataclass(frozen=True)
class RowWeights:
    """Weights of the rows of an objective, which stay on the workers.

    Parameters
    ----------
    source : Source
        Partitions.
    curvatures : CurvaturesOf
        Curvatures, of which one has the weights.
    number : int
        Its index.
    total, largest : float
        Sum and maximum of the weights.
    low : float, default=None
        Lower limit of the weights.
    """

    source: Any
    curvatures: CurvaturesOf
    number: int
    total: float
    largest: float
    low: float | None = None

    def of_part(self, part, own):
        """Return the weights of the rows of a part."""
        weights = self.curvatures.of_part(part, own)[self.number]
        return weights if self.low is None else weights.clip(self.low)

    def sum(self):
        """Sum of the weights."""
        return self.total

    def max(self):
        """Maximum of the weights."""
        return self.largest

    def any(self):
        """Whether a weight is not 0."""
        return self.largest > 0

    def clip(self, low):
        """Replace weights below a limit by it."""
        weights = replace(self, low=low, largest=max(self.largest, low))
        total = self.source.total(_sum_of, weight=weights)
        return replace(weights, total=total)

    def __reduce__(self):  # without the futures of the partitions
        rest = self.curvatures, self.number, self.total, self.largest, self.low
        return RowWeights, (None, *rest)


def _sum_of(grid, weight):
    return weight.sum()


def _statistics_of(grid, curvatures):
    """Compute sum and maximum of each array."""
    return [(each.sum(), each.max(initial=0.0)) for each in curvatures]


@dataclass(eq=False)
class DistributedObjective(LinearParameters):
    """Objective of a linear probe of prompts in the partitions of a collection.

    It has the methods of `LinearObjective` that the solvers use.

    Parameters
    ----------
    source : Source
        Partitions.
    number : int
        Number of the objective in the grid of each partition, among those of folds. If
        it is negative, among those of all prompts.
    loss, alpha, fit_intercept, center, columns, n_skipped
        See `Objective`.
    dtype : dtype
        Type to compute in.
    n_features, n_rows, n_prompts : int
        Numbers of columns, rows and prompts.
    total_weight : float
        Sum of the weights of the prompts.
    sizes : list of tuple
        Sizes of the prompts of each part, from `sizes_of`.
    """

    source: Source
    number: int
    loss: Any
    alpha: float
    fit_intercept: bool
    dtype: Any
    n_features: int
    n_rows: int
    n_prompts: int
    total_weight: float
    sizes: list
    n_skipped: int = 0
    center: Any = None
    columns: Any = None

    X = span = None
    on_host = True

    def __post_init__(self):
        self.has_intercept = self.fit_intercept and not self.loss.shift_invariant
        self._set_parameters()
        self._curvature_at_zero = None
        settings, names = self.source.settings, ("loss", "center", "columns")
        if any(getattr(settings, name) is not getattr(self, name) for name in names):
            changes = {name: getattr(self, name) for name in names}
            self.source = self.source.changed(**changes)

    def leave_out_all(self):
        """Set the weights of all prompts to 0."""
        self.total_weight = 0.0

    @cached_property
    def _empty(self):
        """Objective in this process of a fold that trains on no prompt."""
        none = np.zeros(0)
        X = np.zeros((0, self.n_features), self.dtype)
        return self.joined([Piece(X, none.astype(int), none, none, None)])[0]

    def _total(self, function, *arguments, **options):
        if self.n_prompts == 0:
            return function(self._empty, *arguments)
        return self.source.total(function, *arguments, number=self.number, **options)

    def at_constant(self, intercept):
        """Compute the mean loss of equal scores, and its derivative by the score."""
        if intercept != 0:
            return self._total(LinearObjective.at_constant, intercept, reads=False)
        *found, self._curvature_at_zero = self._total(_at_zero, reads=False)
        return found

    @property
    def curvature_at_zero(self):
        """Sum of the curvatures of the loss at scores of 0."""
        if self._curvature_at_zero is None:
            self.at_constant(0.0)
        return self._curvature_at_zero

    def moments(self, full, weight=None):
        """Compute mean and second moments of the columns; see `LinearObjective`."""
        moments = self._total(LinearObjective.pooled_moments, full, weight=weight)
        return moments.mean, moments.moment

    def square_sums(self):
        """Sum the squares of each column, (d,)."""
        return self._total(LinearObjective.square_sums)

    @cached_property
    def sampled_mean(self):
        """Mean of the columns in a sample of rows, (d,)."""
        return self.sample(MEAN_ROWS)[0].sampled_mean

    def sample(self, n_rows, weight=None):
        """Copy blocks of at least `n_rows` in total to this process.

        They are those of `LinearObjective.sample` for the same rows in one process.
        """
        if self.n_prompts == 0:
            return self._empty, None
        chosen, pieces = self._sampled_pieces(n_rows, weight)
        found = self.source.collect(
            _copy_pieces, own=pieces, number=self.number, weight=weight
        )
        copies: dict = {number: [] for number in chosen}
        for number, piece in chain.from_iterable(each or () for each in found):
            copies[number].append(piece)
        return self.joined(list(chain.from_iterable(copies.values())))

    def sampled_moments(self, full, n_rows, weight=None):
        """Compute the `moments` of the blocks of `sample`, where they are."""
        if self.n_prompts == 0:
            return self._empty.moments(full)
        _, pieces = self._sampled_pieces(n_rows, weight)
        moments = self._total(_moments_of_pieces, full, own=pieces, weight=weight)
        return moments.mean, moments.moment

    def _sampled_pieces(self, n_rows, weight):
        """Choose the blocks of a sample, and list their pieces in each part.

        Blocks are numbers, and pieces tuples (block, start, stop), or None of a part
        without any.
        """
        sizes = [np.repeat(*each) for each in self.sizes]
        n_prompts = [len(each) for each in sizes]
        offsets = np.concatenate(([0], np.cumsum(np.concatenate(sizes))))
        at_once = rows_at_once(np.empty((0, self.n_features)), self.dtype.itemsize)
        starts = np.array(block_starts(offsets, rows_of_block(n_rows, at_once)))
        sums = None
        if weight is not None:
            pieces = _pieces_of(starts, np.arange(len(starts) - 1), n_prompts)
            sums = np.zeros(len(starts) - 1)
            found = self.source.collect(
                _sums_of_pieces, own=pieces, number=self.number, weight=weight
            )
            for number, total in chain.from_iterable(each or () for each in found):
                sums[number] += total
        chosen = choose_blocks(np.diff(offsets[starts]), n_rows, sums)
        return chosen, _pieces_of(starts, np.sort(chosen), n_prompts)

    def joined(self, pieces):
        """Make a LinearObjective of `Piece` objects, and return the weights of rows."""
        whole = Piece(
            *(
                None if each[0] is None else np.concatenate(each)
                for each in zip(*pieces, strict=True)
            )
        )
        offsets = np.concatenate(([0], np.cumsum(whole.sizes)))
        objective = LinearObjective(
            whole.X,
            Layout((len(whole.X),), offsets),
            whole.rewards,
            self.loss,
            alpha=self.alpha,
            fit_intercept=self.fit_intercept,
            prompt_weight=whole.prompt_weight,
            candidate_weight=whole.candidate_weight,
            n_skipped=self.n_skipped,
            center=self.center,
            columns=self.columns,
            whole_weight=1.0,
        )
        return objective, whole.weight


def _pieces_of(starts, numbers, n_prompts):
    """List the pieces of blocks in each part, (number of the block, start, stop).

    `starts` are the first prompts of all blocks, which may reach over several parts,
    and the end of the last; `numbers` are the blocks, in ascending order; `n_prompts`
    are the numbers of prompts of the parts. Of a part without blocks, None is listed.
    """
    firsts, stops, pieces = starts[numbers], starts[numbers + 1], []
    for low, high in pairwise(np.cumsum([0, *n_prompts])):
        inside = slice(
            np.searchsorted(stops, low, side="right"), np.searchsorted(firsts, high)
        )
        begins = np.maximum(firsts[inside], low) - low
        ends = np.minimum(stops[inside], high) - low
        columns = numbers[inside].tolist(), begins.tolist(), ends.tolist()
        found = list(zip(*columns, strict=True)) if high > low else None
        pieces.append(found or None)
    return pieces


class Piece(NamedTuple):
    """Copy of consecutive prompts of an objective."""

    X: Any
    sizes: Any
    rewards: Any
    prompt_weight: Any
    candidate_weight: Any
    weight: Any = None


def _copy_piece(objective, start, stop, weight=None):
    layout, prompts = objective.layout, slice(start, stop)
    rows = slice(layout.offsets[start], layout.offsets[stop])
    X = objective.reader.raw(rows if layout.order is None else layout.order[rows])
    return Piece(
        np.array(X),
        layout.sizes[prompts],
        objective.rewards[rows],
        objective.prompt_weight[prompts],
        objective._weight(rows),
        None if weight is None else weight[rows],
    )


def _copy_pieces(objective, pieces, weight=None):
    return [
        (number, _copy_piece(objective, start, stop, weight))
        for number, start, stop in pieces
    ]


def _moments_of_pieces(objective, pieces, full, weight=None):
    """Compute the moments of the rows of pieces."""
    offsets = objective.layout.offsets
    blocks = [
        (
            slice(start, stop),
            slice(offsets[start], offsets[stop]),
            offsets[start : stop + 1] - offsets[start],
        )
        for _, start, stop in pieces
    ]
    return objective.with_blocks(blocks).pooled_moments(full, weight)


def _sums_of_pieces(objective, pieces, weight):
    """Sum the weights of the rows of each piece of a block."""
    offsets = objective.layout.offsets
    return [
        (number, weight[offsets[start] : offsets[stop]].sum())
        for number, start, stop in pieces
    ]


def _copy_whole(grid):
    """Copy all prompts, for each objective, and the folds."""
    n_prompts = grid.objective.n_prompts
    return [_copy_piece(each, 0, n_prompts) for each in grid.objectives], grid.in_fold


def sizes_of(objective):
    """Return the sizes of prompts, as arguments of np.repeat: few if all are equal."""
    sizes = objective.layout.sizes
    if len(sizes) and (sizes == sizes[0]).all():
        return sizes[:1], len(sizes)
    return sizes, 1


def _at_zero(objective):
    """Compute mean loss, slope and curvature at scores of 0."""
    return np.array([*objective.at_constant(0.0), objective.curvature_at_zero])


class DistributedGrid(GridObjective):
    """Grid of objectives of prompts in the partitions of a collection.

    Parameters
    ----------
    objectives : list of DistributedObjective
        Objectives of all prompts, one per reward.
    in_fold : Parts, default=None
        Arrays of int, (n_folds, n_prompts), for each partition: number of times that
        each fold trains on each prompt. None makes a grid of one fold of all prompts,
        with the penalty of the objectives.
    alphas : ndarray of shape (n_alphas,), default=None
        Strengths of the L2 penalty of a grid with folds.
    """

    def __init__(self, objectives, in_fold=None, alphas=None):
        first = objectives[0]
        self.is_whole, self.n_folds = in_fold is None, 1
        self.alphas = np.array([first.alpha] if alphas is None else alphas, float)
        if not self.is_whole:
            source = self._add_folds(first.source, in_fold)
            objectives = [replace(each, source=source) for each in objectives]
        self.n_objectives = self.n_folds * len(objectives) * len(self.alphas)
        self._set(objectives)

    def _add_folds(self, source, in_fold):
        """Make the source of objectives of folds, and count their rows."""
        own = source.own.map(_with_folds, each=[in_fold])
        source = source.changed(own)
        counts = source.collect(_count_folds, reads=False)
        *counts, sizes = zip(*counts, strict=True)
        rows, prompts, weights = map(np.array, counts)
        weights, self.n_folds = weights.sum(axis=0), rows.shape[1]
        states = [
            generator_states(
                np.random.RandomState(0), n_rows, np.random.RandomState.standard_normal
            )
            for n_rows in rows.T.tolist()
        ]
        noise = Parts.scatter([list(each) for each in zip(*states, strict=True)])
        self.fold_sizes = [
            [(n_rows, n_prompts, weight, of_parts) for weight in of_rewards]
            for n_rows, n_prompts, of_rewards, of_parts in zip(
                rows.sum(axis=0),
                prompts.sum(axis=0),
                weights,
                map(list, zip(*sizes, strict=True)),
                strict=True,
            )
        ]
        return source.changed(own.map(_with_noise, each=[noise]), fold_weights=weights)

    def _set(self, objectives):
        """Set the objectives, which share one source."""
        source = objectives[0].source
        first = 0 if self.is_whole else -len(objectives)
        self.objectives = [
            replace(each, source=source, number=number)
            for number, each in enumerate(objectives, start=first)
        ]
        self.objective, self.source = self.objectives[0], source
        self.fold_objectives = self.objectives
        if not self.is_whole:
            sizes = [each for fold in self.fold_sizes for each in fold]
            self.fold_objectives = [
                replace(
                    self.objectives[number % len(objectives)],
                    number=number,
                    n_rows=int(n_rows),
                    n_prompts=int(n_prompts),
                    total_weight=weight,
                    sizes=of_parts,
                )
                for number, (n_rows, n_prompts, weight, of_parts) in enumerate(sizes)
            ]

    def with_objectives(self, objectives):
        """Return the grid of other objectives."""
        grid = copy.copy(self)
        grid._set(objectives)
        return grid

    def centered(self):
        """Return the grid with centered columns, if it needs them for precision."""
        objective = self.objective.centered()
        return (
            self
            if objective is self.objective
            else self.replace(center=objective.center)
        )

    def in_span(self):
        """Return the grid in this process and in the span of its rows, if few."""
        objective = self.objective
        if objective.n_rows > min(SPAN_ROWS, objective.n_features - 1):
            return self
        return self.gathered().in_span()

    def total(self, function, *arguments, add=operator.add):
        """Add the results of a function of the grid of each part."""
        return self.source.total(function, *arguments, add=add)

    def gathered(self):
        """Return the grid with the data in this process."""
        objective = self.objective
        n_bytes = objective.n_rows * objective.n_features * objective.dtype.itemsize
        if n_bytes > GATHERED_BYTES:
            raise ValueError(
                "A fold of cv has fewer candidates than X has features, and X is too "
                f"large, {n_bytes / 2**30:.1f} GiB, to solve it in one process. Use "
                "larger folds, or reduce the columns of X."
            )
        copies, in_fold = zip(*self.source.collect(_copy_whole), strict=True)
        objectives = [
            each.joined(pieces)[0]
            for each, pieces in zip(
                self.objectives, zip(*copies, strict=True), strict=True
            )
        ]
        if self.is_whole:
            return WholeGrid(objectives)
        return GridObjective(objectives, np.hstack(in_fold), self.alphas)

    def value_and_gradient(self, thetas, which):
        """Evaluate some of the objectives, with one message to each part."""
        which = np.asarray(which)
        alphas = self.alphas[which % len(self.alphas), None]
        values, gradients = self.objective.penalty(thetas, alphas)
        numbers = which // len(self.alphas)
        losses, slopes = self.total(_losses, thetas, numbers, add=add_each)
        return values + losses, gradients + slopes

    def score_curvatures(self, thetas, which):
        """Measure the curvature of some objectives; see `GridObjective`."""
        settings = self.source.settings
        numbers = which // len(self.alphas)  # a part has no penalties
        curvatures = CurvaturesOf(uuid4().hex, settings, thetas, numbers)
        found = np.array(self.source.collect(_statistics_of, weight=curvatures))
        totals, largest = found[..., 0].sum(axis=0), found[..., 1].max(axis=0)
        return [
            RowWeights(self.source, curvatures, number, *each)
            for number, each in enumerate(zip(totals, largest, strict=True))
        ]


def _with_folds(own, in_fold):
    return replace(own, in_fold=in_fold)


def _with_noise(own, noise):
    return replace(own, noise=noise)


def _count_folds(grid):
    """Count rows and prompts of each fold, and sum the weights, per reward."""
    copies, sizes = grid.in_fold, grid.objective.layout.sizes
    weights = [copies @ each.prompt_weight for each in grid.objectives]
    used = copies > 0
    of_folds = [
        sizes_of(fold) for fold in grid.fold_objectives[:: len(grid.objectives)]
    ]
    return used @ sizes, used.sum(axis=1), np.transpose(weights), of_folds


def _losses(grid, thetas, which):
    return grid.losses(thetas, which)
