"""The HTTP side: OpenAI's chat completions, transcriptions and models, so that clients which exist work as they are."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import time
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Form, Request
from fastapi import File as FormFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from omni.serving import errors
from omni.serving.assistant import Assistant
from omni.serving.batcher import Answer
from omni.serving.body import BodyLimit
from omni.serving.ears import File
from omni.serving.errors import ApiError
from omni.serving.requests import ChatRequest, check_neutral

T = TypeVar("T")
TRANSCRIPTION = {"file", "model", "response_format", "language", "prompt", "temperature"}
"""What may be sent along with a file; the last three say nothing to a model of one language that says the likeliest."""
NO = ("", "0", "false", "null", "none")
"""How clients write in a form that they do not want something; in any case."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
LEFT = 499
"""What nginx calls a client that closed the connection; nobody reads it."""


def create_app(assistant: Assistant, *, name: str, key: str | None = None) -> FastAPI:
    """The application; the assistant runs as long as it does.

    Args:
        name: what clients call the model.
        key: what they have to bring as a bearer token; None lets everybody in.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        assistant.start()
        yield
        await assistant.stop()

    app = FastAPI(title="omni", lifespan=life, openapi_url=None)
    app.add_middleware(BodyLimit, most=int(assistant.limits.max_body_mib * 2**20))
    errors.install(app)
    app.include_router(open_routes(assistant, name))
    api = routes(assistant, name)
    for route in api.routes:
        app.add_api_route(route.path, without_v1, methods=METHODS)
    for rest in ("", "/{rest:path}"):
        api.add_api_route(rest, nothing_here, methods=METHODS)
    app.include_router(api, prefix="/v1", dependencies=[Depends(key_check(key))])
    return app


async def without_v1(request: Request) -> None:
    """For a client whose base_url lacks it."""
    path = request.url.path
    told = f"{path:.100}: it is at /v1{path:.100}; give the client base_url={request.base_url}v1"
    raise ApiError(404, told, code="unknown_url")


async def nothing_here(request: Request) -> None:
    """For whatever else is below /v1."""
    there = "POST /v1/chat/completions, POST /v1/audio/transcriptions and GET /v1/models"
    raise ApiError(404, f"{request.method} {request.url.path:.100}: is not served; {there} are", code="unknown_url")


def key_check(key: str | None) -> Callable:
    """Lets nobody through who does not bring the key."""

    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]) -> None:
        brought = given.credentials if given else ""
        if key is not None and not secrets.compare_digest(brought.encode(), key.encode()):
            raise ApiError(401, "bring the server's key as a bearer token", code="invalid_api_key")

    return check


def open_routes(assistant: Assistant, name: str) -> APIRouter:
    """What needs no key."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        status = "going down" if assistant.leaving else "ok"
        told = {"status": status, "model": name, "taken": assistant.taken, "places": assistant.places}
        return JSONResponse(told, status_code=503 if assistant.leaving else 200)

    return router


def routes(assistant: Assistant, name: str) -> APIRouter:
    """What does."""
    router, model = APIRouter(), {"id": name, "object": "model", "created": int(time()), "owned_by": "omni"}

    def check_model(asked: str) -> None:
        if asked != name:
            raise ApiError(
                404, f"model: {asked!r:.100} is not here, but {name!r} is", code="model_not_found", param="model"
            )

    @router.get("/models")
    async def models() -> dict:
        return {"object": "list", "data": [model]}

    @router.get("/models/{asked}")
    async def one_model(asked: str) -> dict:
        check_model(asked)
        return model

    @router.post("/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Response:
        check_model(body.model)
        settings = body.settings(assistant.limits)
        messages, sounds = body.conversation(assistant.limits)
        answer = await unless_left(request, assistant.chat(messages, sounds, settings))
        if answer is None:
            return Response(status_code=LEFT)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(chunks(answer, name, usage=usage), on_end=lambda: assistant.close(answer))
        text = await whole(request, assistant, answer)
        return Response(status_code=LEFT) if text is None else JSONResponse(completion(answer, text, name))

    @router.post("/audio/transcriptions")
    async def transcriptions(
        request: Request,
        file: Annotated[Any, FormFile()],
        model: Annotated[str, Form()],
        response_format: Annotated[Literal["json", "text"], Form()] = "json",
    ) -> Response:
        check_model(model)
        if isinstance(file, str):
            raise ApiError(400, "file: it is text and no upload; with curl, write -F file=@a.wav", param="file")
        for field, value in (await request.form()).multi_items():
            if field not in TRANSCRIPTION and str(value).lower() not in NO:
                check_neutral(field, value)
        sound = File(f"{file.filename or 'file':.100}", await file.read())
        answer = await unless_left(request, assistant.transcribe(sound))
        text = None if answer is None else await whole(request, assistant, answer)
        if text is None:
            return Response(status_code=LEFT)
        if response_format == "text":
            return PlainTextResponse(text + "\n")
        read, written = answer.positions, answer.latest.tokens
        usage = {"type": "tokens", "input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        usage["input_token_details"] = {"audio_tokens": answer.heard, "text_tokens": read - answer.heard}
        return JSONResponse({"text": text, "usage": usage, "timing": timing_of(answer)})

    return router


async def unless_left(request: Request, work: Awaitable[T]) -> T | None:
    """What comes of `work`; None, and it is cancelled, when the client closes the connection before."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def whole(request: Request, assistant: Assistant, answer: Answer) -> str | None:
    """All of an answer, which is closed then; None when nobody waits for it any more."""

    async def collect() -> str:
        return "".join([text async for text in answer.texts()])

    try:
        return await unless_left(request, collect())
    finally:
        assistant.close(answer)


class EventStream(StreamingResponse):
    """Server-sent events. `on_end` is called however it ends, also when it never began."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict], on_end: Callable[[], None]):
        super().__init__(as_events(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.on_end = on_end

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            self.on_end()


async def as_events(events: AsyncIterator[dict]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield f"data: {json.dumps(event, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status is sent already, so the error comes as an event
        yield f"data: {errors.as_response(error).body.decode()}\n\n"


async def chunks(answer: Answer, name: str, *, usage: bool) -> AsyncIterator[dict]:
    """An answer as it comes."""
    head = header("chat.completion.chunk", name)

    def chunk(delta: dict, finish: str | None = None) -> dict:
        return head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    async for text in answer.texts():
        yield chunk({"content": text})
    yield chunk({}, answer.latest.finish) | {"timing": timing_of(answer)}
    if usage:
        yield head | {"choices": [], "usage": usage_of(answer)}


def completion(answer: Answer, text: str, name: str) -> dict:
    """An answer that is whole."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.latest.finish}
    told = {"choices": [choice], "usage": usage_of(answer), "timing": timing_of(answer)}
    return header("chat.completion", name) | told


def header(kind: str, name: str) -> dict:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time()), "model": name}


def usage_of(answer: Answer) -> dict:
    """Tokens, those of sound among them."""
    read, written = answer.positions, answer.latest.tokens
    details = {"audio_tokens": answer.heard, "cached_tokens": answer.row.recalled}
    whole = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return whole | {"prompt_tokens_details": details}


def timing_of(answer: Answer) -> dict:
    """Where the time went until the first token, and how fast the others came."""
    return answer.laps.milliseconds() | {"tokens_per_second": round(answer.tokens_per_second, 1)}
