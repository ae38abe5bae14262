"""PromptRefused: the error of one prompt or text that a model never accepts."""


class PromptRefused(RuntimeError):  # noqa: N818
    """One prompt or text is refused for good; the others may be accepted.

    To ask again does not help. `sample` of a generator and `embed_batch` of an embedder
    raise it. `sample_each` and `embed_batches` yield it in place of the result of the
    prompt or batch, so that the others go on.

    Parameters
    ----------
    reason : str
        Cause of the refusal, such as the message of the server.
    """

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason
