"""The routes of the server: OpenAI's API, and what `lm_eval` asks to tokenize remotely."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from folio.runtime.untrusted import shown
from folio.serve.chat import STOP, chat_prompt
from folio.serve.errors import ApiError
from folio.serve.generation import Piece, TextRequest, gather, text_steps
from folio.serve.guard import Guard
from folio.serve.limits import MAX_CHOICES, Limits
from folio.serve.models import ServedModel, ServedModels
from folio.serve.page import PAGE_CALLS, PRIVACY, served_page
from folio.serve.requests import ChatBody, CompletionBody, DetokenizeBody, Prompt, TextBody, TokenizeBody
from folio.serve.responses import Answer, ChatAnswer, CompletionAnswer, Json
from folio.serve.scheduler import Scheduler
from folio.serve.transport import Stream, WholeAnswer, read_body, while_connected

T = TypeVar("T")


class Api:
    """The handlers of the routes."""

    def __init__(self, models: ServedModels, scheduler: Scheduler, limits: Limits) -> None:
        self._models = models
        self._scheduler = scheduler
        self._limits = limits
        self._page = served_page(models)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/page/{name}", self.answer_page, methods=["POST"]),
            Route("/health", self.health),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name:path}", self.show_model),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=PRIVACY)

    async def answer_page(self, request: Request) -> Response:
        """Answer a call of the page, in one line of JSON for each part of the answer."""
        name = request.path_params["name"]
        if name not in PAGE_CALLS:
            raise ApiError(f"/page/{shown(name)}: no such call", status=404)
        call = PAGE_CALLS[name]
        body = call.body.parse(await read_body(request))
        results = self._scheduler.run(call.steps(self._models.at(body.model), body))
        return Stream(page_lines(results), "application/x-ndjson")

    async def health(self, request: Request) -> Response:
        is_alive = self._scheduler.is_alive()
        state = {"status": "ok" if is_alive else "stopped", "requests": self._scheduler.n_jobs}
        return JSONResponse(state, 200 if is_alive else 503)

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [describe(model) for model in self._models]})

    async def show_model(self, request: Request) -> Response:
        return JSONResponse(describe(self._models.find(request.path_params["name"])))

    async def complete(self, request: Request) -> Response:
        body = CompletionBody.parse(await read_body(request))
        served = self._models.find(body.model)
        wanted = await self._request(
            served,
            body,
            body.prompts(),
            max_tokens=body.max_tokens,
            stop=body.stops(),
            n_logprobs=body.logprobs,
            echo=body.echo,
        )
        return await self._answer(request, body, served, wanted, CompletionAnswer(served, wanted))

    async def chat(self, request: Request) -> Response:
        body = ChatBody.parse(await read_body(request))
        served = self._models.find(body.model)
        max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        wanted = await self._request(
            served,
            body,
            [chat_prompt(body.messages)],
            max_tokens=max_tokens,
            stop=[*body.stops(), STOP],
            n_logprobs=body.top_logprobs if body.logprobs else None,
        )
        return await self._answer(request, body, served, wanted, ChatAnswer(served, wanted))

    async def tokenizer_info(self, request: Request) -> Response:
        served = self._models.find(request.query_params.get("model"))
        # None, because no text encodes to the token between documents: a prompt cannot inject it.
        special = dict.fromkeys(("bos_token", "eos_token", "pad_token"))
        return JSONResponse(
            {"tokenizer_class": served.tokenizer.name, "vocab_size": served.tokenizer.vocab_size, **special}
        )

    async def tokenize(self, request: Request) -> Response:
        body = TokenizeBody.parse(await read_body(request))
        served = self._models.find(body.model)
        tokens = (await asyncio.to_thread(served.encode_all, [body.prompt]))[0] if body.prompt else []
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": served.context_length})

    async def detokenize(self, request: Request) -> Response:
        body = DetokenizeBody.parse(await read_body(request))
        served = self._models.find(body.model)
        (tokens,) = served.encode_all([body.tokens])
        return JSONResponse({"prompt": served.tokenizer.decode(tokens)})

    async def _request(
        self,
        served: ServedModel,
        body: TextBody,
        prompts: list[Prompt],
        *,
        max_tokens: int,
        stop: list[str],
        n_logprobs: int | None,
        echo: bool = False,
    ) -> TextRequest:
        """Check a request against the limits and the vocabulary. Raises: ApiError."""
        if max_tokens > self._limits.max_tokens:
            raise ApiError(
                f"max_tokens={max_tokens} must be at most {self._limits.max_tokens}; ask for fewer, or start the "
                "server with a larger --max-tokens",
                param="max_tokens",
            )
        if len(prompts) * body.n > MAX_CHOICES:
            raise ApiError(f"{len(prompts)} prompts with n={body.n} are more than {MAX_CHOICES} texts", param="n")
        return TextRequest(
            prompts=await asyncio.to_thread(served.encode_all, prompts),
            n=body.n,
            max_tokens=max_tokens,
            sampling=body.sampling(),
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
            stop=stop,
            n_logprobs=n_logprobs,
            echo=echo,
            ignore_eos=body.ignore_eos,
        )

    async def _answer(
        self, request: Request, body: TextBody, served: ServedModel, wanted: TextRequest, answer: Answer
    ) -> Response:
        steps = text_steps(served.model, served.tokenizer, wanted)
        if body.stream:
            pieces = self._scheduler.run(steps)
            return Stream(events(pieces, answer, with_usage=body.stream_options.include_usage), "text/event-stream")
        whole = self._scheduler.run(gather(steps))
        return WholeAnswer(answer.whole(await while_connected(request.receive, only_result(whole))))


async def only_result(results: AsyncGenerator[T]) -> T:
    """Return the result of steps that have one."""
    async with aclosing(results):
        (result,) = [result async for result in results]
    return result


async def page_lines(results: AsyncGenerator[Json]) -> AsyncGenerator[str]:
    """Yield the lines of an answer to the page."""
    try:
        async with aclosing(results):
            async for result in results:
                yield f"{json.dumps(result)}\n"
    except ApiError as error:
        yield f"{json.dumps(error.body)}\n"


async def events(pieces: AsyncGenerator[Piece], answer: Answer, *, with_usage: bool) -> AsyncGenerator[str]:
    """Yield the server-sent events of a text."""
    counts = []
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                counts.append(Piece(piece.index, "", n_new=piece.n_new))
                for event in answer.events(piece):
                    yield event_of(event)
        if with_usage:
            yield event_of(answer.usage_event(counts))
    except ApiError as error:  # the status was sent with the first event
        yield event_of(error.body)
    yield "data: [DONE]\n\n"


def event_of(body: Json) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


def describe(served: ServedModel) -> Json:
    """Return a model as /v1/models shows it: OpenAI's fields, and what is particular to Folio."""
    return {
        "id": served.id,
        "object": "model",
        "created": served.created,
        "owned_by": "folio",
        "context_length": served.context_length,
        "n_parameters": served.n_parameters,
        "tokenizer": served.tokenizer.name,
        "step": served.step,
    }


def build_app(
    models: ServedModels,
    scheduler: Scheduler,
    limits: Limits,
    *,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
) -> Starlette:
    """Return the server's application: names in `hosts` and web pages of `origins` may be used, see `guard`."""
    middleware = [Middleware(Guard, hosts=hosts, origins=origins)]
    if origins:
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"])
        )
    return Starlette(
        routes=Api(models, scheduler, limits).routes(),
        middleware=middleware,
        exception_handlers={
            ApiError: answer_error,
            HTTPException: answer_http_error,
            ClientDisconnect: answer_nobody,
            Exception: answer_bug,
        },
    )


async def answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, headers=error.headers)


async def answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(message, status=error.status_code).body, error.status_code, headers=error.headers)


async def answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nginx's code for it; the client has gone


async def answer_bug(request: Request, error: Exception) -> Response:
    """Starlette raises the error again, so that the server prints its traceback."""
    return JSONResponse(ApiError("an error in the server; its terminal shows it", status=500).body, 500)
