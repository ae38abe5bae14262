"""create_app: the server as an ASGI application."""

from functools import partial

from skqprobe._utils.optional import import_optional
from skqprobe.serve._gate import Gate
from skqprobe.serve._server import Server
from skqprobe.serve._settings import check_settings


def create_app(
    pipeline,
    upstream,
    *,
    model=None,
    k=8,
    max_k=32,
    temperature=None,
    embeddings=None,
    top_logprobs=None,
    n_per_request=None,
    timeout=120.0,
    max_retries=2,
    max_requests=256,
    max_body_bytes=2**25,
    max_answer_bytes=2**25,
    batch_wait=0.005,
    keep_alive=5.0,
    on_error="first",
    api_key_env=None,
    client_token_env=None,
    log=None,
    log_content="texts",
    random_state=None,
):
    """Create a server that answers like another one, with the best of k candidates.

    The server has the interface of OpenAI. It asks the server `upstream` for k
    candidates of each completion, and answers with the one that `pipeline` chooses.
    Other requests are passed on. Read more in :doc:`/guide/serving`.

    Parameters
    ----------
    pipeline : estimator
        Fitted pipeline that embeds the candidates and ends with a policy or a regressor
        of the reward, as :class:`~skqprobe.generators.BestOfK` takes it.
    upstream : str
        Address of the server with the model, such as "http://localhost:8080/v1".
        Redirects to another host or port are not followed.
    model : str, default=None
        Name of the model for which the pipeline was fitted. Requests for other models
        are passed on without a choice, unless they ask for one. If None, the pipeline
        chooses for all models.
    k : int, default=8
        Number of candidates per request, if the request does not say another one.
    max_k : int, default=32
        Largest number of candidates that a request may ask for.
    temperature : float, default=None
        Temperature of the choice, if the request does not say another one. If None,
        that of the pipeline.
    embeddings : str or list of str, default=None
        Numbers of each candidate that the pipeline gets instead of texts:
        "log_likelihoods", "mean_log_likelihoods", "min_log_likelihoods", "n_tokens" and
        "mean_entropies". The server asks for the log-probabilities that they need.
    top_logprobs : int, default=None
        Number of alternatives per token to ask for. If None, as many as `embeddings`
        need: 20 for entropies, 1 for likelihoods.
    n_per_request : int, default=None
        Largest number of completions per request upstream. If None, all k are asked for
        in one request, and in several if the upstream refuses or ignores that.
    timeout : float, default=120.0
        Seconds for an answer. The candidates that have come after 90% of them are
        chosen from. If a request is passed on, seconds between parts of its answer.
    max_retries : int, default=2
        Number of times that the draws are repeated if all failed with HTTP 408, 500,
        502 or 503, or without an answer.
    max_requests : int, default=256
        Largest number of requests under way. Others get HTTP 429.
    max_body_bytes : int, default=33554432
        Largest size of a request.
    max_answer_bytes : int, default=33554432
        Largest size of an answer upstream that is chosen from.
    batch_wait : float, default=0.005
        Seconds for which candidates wait for those of other requests, with which they
        are embedded in one batch. A request that is alone does not wait.
    keep_alive : float, default=5.0
        Seconds after which a stream begins, and between the comments that keep its
        connection open.
    on_error : {"first", "error"}, default="first"
        Answer if the pipeline fails: the first candidate, or HTTP 502.
    api_key_env : str, default=None
        Name of the environment variable with the API key for the upstream. If None, the
        key of each client is passed on.
    client_token_env : str, default=None
        Name of the environment variable with the token that clients must send as their
        API key. It is not passed on. Needed with `api_key_env`.
    log : str or Path, default=None
        File to which answers and their rewards are added. See
        :func:`~skqprobe.generators.load_records`.
    log_content : {"texts", "embeddings"}, default="texts"
        Part of the candidates that is logged.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the draws.

    Returns
    -------
    app : starlette.applications.Starlette
        ASGI application.

    Raises
    ------
    ImportError
        If starlette, httpx or prometheus_client is not installed.
    NotFittedError
        If the pipeline is not fitted.
    ValueError
        If a parameter is invalid, or a secret is missing.

    See Also
    --------
    skqprobe.generators.BestOfK : The same choice in Python.

    Examples
    --------
    >>> from skqprobe import QProbePolicy, make_probe_pipeline
    >>> from skqprobe.datasets import load_two_words
    >>> from skqprobe.serve import create_app
    >>> X, y = load_two_words(return_X_y=True)
    >>> policy = QProbePolicy().fit(X, y)
    >>> app = create_app(
    ...     policy, "http://localhost:8080/v1", embeddings="n_tokens"
    ... )  # doctest: +SKIP
    """
    options = dict(locals())
    del options["pipeline"]
    starlette, routing, middleware = (
        import_optional(f"starlette.{name}", needed_by="create_app", extra="serve")
        for name in ("applications", "routing", "middleware")
    )
    server = Server(pipeline, check_settings(options))
    routes = [
        routing.Route("/health", server.health, methods=["GET"]),
        routing.Route("/metrics", server.show_metrics, methods=["GET"]),
        routing.Route("/v1/feedback", server.feedback, methods=["POST"]),
    ]
    for path in "/chat/completions", "/completions":
        complete = partial(server.complete, path=path)
        routes.append(routing.Route(f"/v1{path}", complete, methods=["POST"]))
    routes.append(routing.Mount("/v1", server.pass_on))
    gate = middleware.Middleware(Gate, settings=server.settings, metrics=server.metrics)
    return starlette.Starlette(
        routes=routes, middleware=[gate], lifespan=server.lifespan
    )
