"""`zoo serve`: a local page where one types a question and sees answers, evidence and times.

    GET  /        the page
    GET  /about   what answers: model, kind, passages
    POST /answer  {"question": "...", "n_best": 3} -> answers, seconds of each stage, notes

Everything is served from here; the page asks no other machine for anything, and puts what it is
told on the screen as text only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo import stages

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
LONGEST_BODY = 1 << 16  # bytes
LONGEST_QUESTION = 4000  # characters
MOST_ANSWERS = 20
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LOCAL = ("127.0.0.1", "localhost", "::1")
logger = logging.getLogger("zoo")


class QuestionError(ValueError):
    """Something is wrong with what was asked."""


class Answering:
    """Answers questions one after the other, and takes the time.

    Args:
        model: with its retriever.
        run: the module that knows its answers, `ask` or `ask_rag`.
        options: of the model's `answer`.
    """

    def __init__(self, model: Any, run: Any, options: dict[str, Any] | None = None):
        self.model, self.run, self.options = model, run, options or {}
        self._one = threading.Lock()
        name = type(model).__name__.removeprefix("TF")
        kinds = {"RagTokenForGeneration": "rag-token", "RagSequenceForGeneration": "rag-sequence"}
        self.about = {
            "model": type(model).__name__,
            "kind": kinds.get(name, "realm"),
            "passages": _passages(model),
        }

    def __call__(self, question: Any, n_best: Any = 3) -> dict[str, Any]:
        """Answers, seconds by stage and notes, as JSON can hold them.

        Raises:
            QuestionError: no question, or an impossible number of answers.
        """
        if not isinstance(question, str) or not question.strip():
            raise QuestionError("question: type one, it is empty")
        if len(question) > LONGEST_QUESTION:
            raise QuestionError(
                f"question: it has {len(question)} characters, the most is {LONGEST_QUESTION}"
            )
        if type(n_best) is not int or not 1 <= n_best <= MOST_ANSWERS:
            raise QuestionError(f"n_best: received {n_best!r}, expected 1 to {MOST_ANSWERS}")
        question = question.strip().encode(errors="replace").decode()
        with self._one, stages.timed() as seconds:
            began = time.perf_counter()
            [answers] = self.model.answer([question], n_best=n_best, **self.options)
            total = time.perf_counter() - began
            notes = self._notes(question)
        found = self.run.as_json(question, answers)
        return {**self.about, **found, "seconds": seconds, "total": total, "notes": notes}

    def _notes(self, question: str) -> list[str]:
        """What happened to the question on its way into the model."""
        config, retriever = self.model.config, self.model.retriever
        tokenizer = getattr(retriever, "question_encoder_tokenizer", None) or retriever.tokenizer
        config = getattr(config, "question_encoder", config)
        limit = min(config.max_position_embeddings, tokenizer.model_max_length)
        count = len(tokenizer(question, verbose=False)["input_ids"])
        if count <= limit:
            return []
        return [f"The question has {count} tokens; the first {limit} of them were read."]


def _passages(model: Any) -> int | None:
    """How many there are to look into, where that is known."""
    retriever = model.retriever
    if hasattr(retriever, "block_records"):
        return len(retriever.block_records)
    index = getattr(retriever.index, "index", None)
    return None if index is None else len(index)


def make_app(answering: Callable[..., dict[str, Any]], about: Any, hosts: tuple[str, ...]) -> Any:
    """The web application.

    Args:
        answering: takes `question` and `n_best`, see `Answering`.
        about: what `/about` says.
        hosts: names that the server may be called by; any if there are none. Another site's name
            that leads here would let that site read the answers.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    def as_json(content: Any, status: int = 200) -> Response:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        return Response(text, status, HEADERS, "application/json")

    def refused(request: Request) -> Response | None:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname
        if hosts and name not in hosts:
            return as_json({"error": f"host: {name!r} is not {' or '.join(hosts)}"}, 400)
        return None

    def file(request: Request) -> Response:
        path = PAGE / FILES[request.url.path]
        kind = f"{MEDIA[path.suffix]}; charset=utf-8"
        return refused(request) or Response(path.read_bytes(), 200, HEADERS, kind)

    def say_about(request: Request) -> Response:
        return refused(request) or as_json(about)

    async def answer(request: Request) -> Response:
        if error := refused(request):
            return error
        # Pages of other sites can send forms here, but not this type.
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return as_json({"error": "content-type: expected application/json"}, 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_BODY:
                return as_json({"error": f"the request is longer than {LONGEST_BODY} bytes"}, 413)
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict) or not set(asked) <= {"question", "n_best"}:
                raise QuestionError("expected an object with question and n_best")
            asked.setdefault("question", "")
            return as_json(await run_in_threadpool(answering, **asked))
        except QuestionError as error:
            return as_json({"error": str(error)}, 400)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            return as_json({"error": f"the request is no JSON: {error}"}, 400)
        except Exception as error:  # of the model; whoever asked is told, and asks on
            logger.exception("the question was not answered")
            return as_json({"error": f"{type(error).__name__}: {error}"}, 500)

    def missing(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        return as_json({"error": getattr(error, "detail", "")}, status)

    routes = [Route(path, file) for path in FILES]
    routes += [Route("/about", say_about), Route("/answer", answer, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={404: missing, 405: missing})


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: the port is taken or forbidden, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"--host: {host!r} is no address of this machine: {error}") from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"--port: {port} is in use on {host}; choose another, or 0 for a free one"
            ) from None
        name = "--port" if error.errno == errno.EACCES else "--host"
        raise ValueError(f"{name}: cannot listen on {host}, port {port}: {error}") from None
    return opened


def run(
    host: str,
    port: int,
    opening: contextlib.AbstractContextManager[tuple[Any, Any, dict[str, Any]]],
    say: Callable[[str], None] = print,
) -> None:
    """Serves the page until it is interrupted.

    Args:
        host, port: where; port 0 takes a free one.
        opening: gives the model, the module that knows its answers, and options of `answer`.
        say: prints a line.

    Raises:
        ValueError: the port is in use, or the model cannot be opened.
        ModuleNotFoundError: the libraries of the web server are not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the page needs {error.name}: pip install 'twin-zoo[web]'"
        ) from None
    with contextlib.suppress(KeyboardInterrupt), listen(host, port) as opened:
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{opened.getsockname()[1]}"
        with opening as (model, module, options):
            answering = Answering(model, module, options)
            hosts = LOCAL if host in LOCAL else ()
            app = make_app(answering, answering.about, hosts)
            config = uvicorn.Config(
                app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5
            )
            say(f"{address} answers with {answering.about['model']}; Ctrl-C ends it")
            uvicorn.Server(config).run(sockets=[opened])
