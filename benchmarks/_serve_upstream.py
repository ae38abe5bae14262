"""An upstream with latency and faults, for serve.py: an application of uvicorn.

It answers with the last message of a chat, and a number that counts its answers. The
environment variables LATENCY (seconds, of a uniform distribution from half of it to
one and a half) and FAULTS (a share of requests) configure it.
"""

import asyncio
import json
import os
import random

LATENCY, FAULTS = float(os.environ["LATENCY"]), float(os.environ["FAULTS"])
COUNT = 0


async def app(scope, receive, send):
    """Answer chats, some of them with an error or a broken connection."""
    global COUNT
    if scope["type"] == "lifespan":
        for kind in "startup", "shutdown":
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    content, more = b"", True
    while more:
        message = await receive()
        content, more = content + message["body"], message.get("more_body", False)
    if LATENCY:
        await asyncio.sleep(LATENCY * random.uniform(0.5, 1.5))
    if scope["method"] == "GET":
        return await reply(send, 200, b'{"object": "list", "data": []}')
    if random.random() < FAULTS:
        return await random.choice([refuse, oops, hang_up])(send)
    body, COUNT = json.loads(content), COUNT + 1
    words = f"{body['messages'][-1]['content']} answer {COUNT}"
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": f"{words} {i}"},
            "finish_reason": "stop",
        }
        for i in range(body.get("n", 1))
    ]
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer |= {"choices": choices, "usage": usage}
    await reply(send, 200, json.dumps(answer).encode())


async def reply(send, status, content, length=None):
    """Send an answer."""
    length = str(length or len(content)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def refuse(send):
    """Answer with an error."""
    await reply(send, 500, b'{"error": {"message": "scripted"}}')


async def oops(send):
    """Answer with something that is not JSON."""
    await reply(send, 200, b"oops")


async def hang_up(send):
    """Break the connection in the middle of an answer."""
    headers = [(b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})
    raise ConnectionResetError
