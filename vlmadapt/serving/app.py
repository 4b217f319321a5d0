"""The server: one page, one endpoint, and what is checked before either answers.

Every answer is made here, so that every one has the same headers; an error is one sentence that names no path.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from vlmadapt.errors import FileError, InputError, MissingDependency
from vlmadapt.files import read_text
from vlmadapt.serving.answer import Answers
from vlmadapt.serving.description import MEDIA, MOST_TOP, MOST_VOTES, openapi
from vlmadapt.serving.place import Place

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise MissingDependency(f"serve needs {error.name}: run pip install 'vlmadapt[serve]'.") from error

MOST_BYTES = 20 << 20  # of a file
MOST_WAITING = 8  # pictures that are received, decoded or classified; more are sent away
SECONDS = 30.0  # for a picture to arrive
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
HEADERS = {
    "Content-Security-Policy": POLICY + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
KINDS = {"index.html": "text/html", "style.css": "text/css", "script.js": "text/javascript"}
OPEN = ("/style.css", "/script.js")  # nothing of the classifier is in them, and a page cannot send its token for them
Handler = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """A request that gets a sentence in place of an answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Guard:
    """Around the whole application: who asks, by which name, from which page, with which token; and the headers of all
    answers, those to faults too, are added here."""

    def __init__(self, app: Any, place: Place) -> None:
        self.app = app
        self.place = place

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        token = self.place.token if scope["path"] in OPEN else _token(headers, scope["query_string"])
        refused = self.place.refusal(headers, token)
        if refused is not None:
            await _said(*refused)(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)


def _token(headers: Mapping[str, str], query: bytes) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return dict(parse_qsl(query.decode("latin-1"))).get("token")


def make_app(answers: Answers, place: Place) -> Guard:
    """The application that answers at ``place``."""
    about = answers.about()
    described = openapi(about["class_names"], asks_for_token=place.token is not None)
    waiting = threading.BoundedSemaphore(MOST_WAITING)

    async def predict(request: Request) -> Response:
        top = _number(request, "top", 3, 1, MOST_TOP)
        votes = _number(request, "votes", 5, 0, MOST_VOTES)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in MEDIA:
            raise _Refused(415, f"Content-Type is not one of {', '.join(MEDIA)}: send the bytes of one picture.")
        if not waiting.acquire(blocking=False):
            raise _Refused(503, "too many pictures at once: try again in a moment.")
        try:
            data = await _body(request)
            return JSONResponse(await run_in_threadpool(answers.predict, data, top, votes))
        except (FileError, InputError) as error:
            raise _Refused(422, str(error)) from error
        finally:
            waiting.release()

    async def tell(request: Request) -> Response:
        _only(request)
        return JSONResponse(about)

    async def describe(request: Request) -> Response:
        _only(request)
        return JSONResponse(described)

    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/about", tell),
        Route("/openapi.json", describe),
        Route("/", _file("index.html")),
        Route("/style.css", _file("style.css")),
        Route("/script.js", _file("script.js")),
    ]
    handlers: Any = {_Refused: _on_refused, HTTPException: _on_http, ClientDisconnect: _on_gone, Exception: _on_other}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), place)


def _file(name: str) -> Handler:
    content = read_text(Path(__file__).parent / "page" / name)

    async def give(_request: Request) -> Response:
        return Response(content, media_type=KINDS[name])

    return give


async def _body(request: Request) -> bytes:
    """At most ``MOST_BYTES``, within ``SECONDS``."""
    too_large = _Refused(413, f"the file has more than {MOST_BYTES >> 20} MiB: send a smaller one.")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > MOST_BYTES:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            async for part in _stream(request):
                size += len(part)
                if size > MOST_BYTES:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise _Refused(408, f"the picture did not arrive within {SECONDS:g} seconds: send it again.") from error
    return b"".join(parts)


async def _stream(request: Request) -> AsyncIterator[bytes]:
    async for part in request.stream():
        yield part


def _only(request: Request, *known: str) -> None:
    """Raise :class:`_Refused` for a query parameter that is not ``known``, or there twice."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in (*known, "token") or name in seen:
            offered = ", ".join(known) or "none"
            raise _Refused(400, f"a parameter of the address is not known or there twice: use {offered}.")
        seen.add(name)


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    _only(request, "top", "votes")
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and least <= int(text) <= most):
        raise _Refused(400, f"{name} is no whole number from {least} to {most}: give one.")
    return int(text)


def _said(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status_code=status)


async def _on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    answer = _said(error.status, str(error))
    if error.status == 503:
        answer.headers["Retry-After"] = "2"
    return answer


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is nothing at this address.", 405: "this address takes no such request."}
    answer = _said(error.status_code, sentence.get(error.status_code, "the request is not understood."))
    answer.headers.update(error.headers or {})
    return answer


async def _on_gone(_request: Request, _error: Exception) -> Response:
    return _said(400, "the picture did not arrive whole: send it again.")


async def _on_other(_request: Request, _error: Exception) -> Response:
    return _said(500, "the server met a fault of its own: what it was, is printed where it runs.")


def server_of(app: Guard) -> uvicorn.Server:
    """What :func:`run` runs."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses hold the token
        lifespan="off",
        ws="none",
        http="h11",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * MOST_WAITING,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def run(server: uvicorn.Server, place: Place) -> None:
    """Answer until Ctrl-C or SIGTERM, which are raised again when the last answer is given."""
    try:
        server.run(sockets=[place.listening])
    finally:
        place.listening.close()
