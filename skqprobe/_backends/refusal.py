"""PromptRefused: the error of one prompt that a model never answers."""


class PromptRefused(RuntimeError):
    """One prompt or text is refused for good; others may be answered.

    Asking again does not help. A generator raises it from `sample`.

    Parameters
    ----------
    reason : str
        Cause of the refusal, such as the message of the server.
    """

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason
