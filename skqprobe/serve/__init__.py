"""An OpenAI-compatible server that answers with the best of k candidates.

Read more in :doc:`/guide/serving`.
"""

from skqprobe._utils.public import set_module
from skqprobe.serve._app import create_app

__all__ = ["create_app"]

set_module(globals())
