"""Objective: the mean loss of a probe over prompts plus an L2 penalty."""

from skqprobe._arrays.blocks import BlockReader
from skqprobe._candidates.segments import repeat_per_prompt


class Objective:
    """Mean loss of a probe over prompts, plus an L2 penalty: what both kinds share.

    Parameters
    ----------
    X : ndarray or DeviceArray of shape (n_rows, d)
        Embeddings, as the user gave them.
    layout : Layout
        Where in X the candidates of each prompt lie. Rows of X it does not mention are
        not used.
    rewards : ndarray of shape (layout.n_rows,)
        Rewards, prompt by prompt.
    loss : BaseLoss
        The loss.
    alpha : float
        Strength of the L2 penalty, which spares intercepts.
    fit_intercept : bool
        Whether to add an intercept to the scores; a loss that needs a choice never has
        one.
    prompt_weight : ndarray of shape (layout.n_prompts,)
        Weights of the prompts in the mean; brought to sum 1, unless all are 0.
    candidate_weight : ndarray of shape (layout.n_rows,) or None
        Positive weights of the candidates inside their prompt.
    n_skipped : int
        How many of the prompts have weight 0 because the loss has no use for them.
    """

    def __init__(
        self,
        X,
        layout,
        rewards,
        loss,
        *,
        alpha,
        fit_intercept,
        prompt_weight,
        candidate_weight=None,
        n_skipped=0,
    ):
        self.X = X
        self.layout = layout
        self.rewards = rewards
        self.loss = loss
        self.alpha = alpha
        self.has_intercept = fit_intercept and not loss.shift_invariant
        self.prompt_weight = prompt_weight / (prompt_weight.sum() or 1)
        self.n_skipped = n_skipped
        self.candidate_weight = candidate_weight
        self.reader = BlockReader(X)
        self.dtype = self.reader.dtype
        self.n_features = X.shape[1]

    def _read(self, rows):
        """Embeddings of rows counted prompt by prompt, in the dtype to compute in."""
        order = self.layout.order
        return self.reader(rows if order is None else order[rows])

    def _weight(self, rows):
        return None if self.candidate_weight is None else self.candidate_weight[rows]

    def _least_squares_terms(self, prompts, rows, offsets):
        v, t = self.loss.least_squares(self.rewards[rows], offsets, self._weight(rows))
        return v * repeat_per_prompt(self.prompt_weight[prompts], offsets), t
