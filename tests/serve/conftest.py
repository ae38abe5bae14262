import asyncio

import pytest
from serving import CHAT, ScriptedUpstream, make_pipeline_of_a, run_server

from skqprobe.serve import create_app


@pytest.fixture(scope="session")
def extra():
    """Skip the test if the extra `serve` is not installed."""
    for package in "starlette", "uvicorn", "httpx", "prometheus_client":
        pytest.importorskip(package)


@pytest.fixture(scope="session")
def switch(extra):
    """A server of all tests in turn: its application is the attribute `app`."""

    class Switch:
        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)

    switch = Switch()
    switch.app = ScriptedUpstream()
    with run_server(switch) as switch.url:
        yield switch


@pytest.fixture
def upstream(extra, switch):
    """An upstream that makes errors on demand; its address is `url`."""
    switch.app = ScriptedUpstream()
    switch.app.url = switch.url
    return switch.app


class Client:
    """Client of an application in this process: requests, several at a time."""

    def __init__(self, app):
        self.app, self._runner = app, asyncio.Runner()
        self._lifespan = app.router.lifespan_context(app)
        self._runner.run(self._lifespan.__aenter__())

    def close(self):
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is not None:
            with self._runner:
                self._runner.run(lifespan.__aexit__(None, None, None))

    def run(self, function):
        """Run ``await function(client)`` with a client of httpx."""

        import httpx

        async def run():
            transport = httpx.ASGITransport(self.app)
            options = {"base_url": "http://server", "timeout": 30, "trust_env": False}
            async with httpx.AsyncClient(transport=transport, **options) as client:
                return await function(client)

        return self._runner.run(run())

    def send_all(self, *requests):
        """Send (method, path, options) concurrently, and return the answers."""

        async def send(client):
            sent = [client.request(m, p, **options) for m, p, options in requests]
            return await asyncio.gather(*sent)

        return self.run(send)

    def post(self, path, body=None, **options):
        options |= {} if body is None else {"json": body}
        return self.send_all(("POST", path, options))[0]

    def get(self, path, **options):
        return self.send_all(("GET", path, options))[0]

    def chat(self, headers=None, **fields):
        return self.post("/v1/chat/completions", CHAT | fields, headers=headers or {})


@pytest.fixture
def make_client(upstream):
    """Function that makes a client of an application in front of `upstream`."""

    clients = []

    def make(pipeline=None, **settings):
        settings = {"k": 8, "timeout": 10.0, **settings}
        pipeline = make_pipeline_of_a() if pipeline is None else pipeline
        clients.append(Client(create_app(pipeline, upstream.url, **settings)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client):
    return make_client()
