"""What goes wrong, as OpenAI's API says it: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from omni.errors import OmniError
from omni.generation.engine import ContextError
from omni.serving.limits import BusyError

INVALID = "invalid_request_error"


class ApiError(OmniError):
    """An answer that is no answer.

    Args:
        status: of HTTP.
        code: one that clients look at.
        param: what in the request is meant.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def response(
    status: int, message: str, *, code: str | None = None, param: str | None = None, headers: dict | None = None
) -> JSONResponse:
    kind = INVALID if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def as_response(error: Exception) -> JSONResponse:
    """What to answer when a request ends in an error."""
    match error:
        case ApiError():
            return response(error.status, str(error), code=error.code, param=error.param)
        case BusyError():
            return response(503, str(error), code="overloaded", headers={"Retry-After": str(error.retry_after)})
        case ContextError():
            return response(400, str(error), code="context_length_exceeded", param="messages")
        case OmniError():
            return response(400, str(error))
        case RequestValidationError():
            return invalid(error.errors())
        case HTTPException(__cause__=UnicodeDecodeError() | RecursionError() as cause):
            return response(400, f"body: it is no JSON ({cause})")
        case HTTPException():
            return response(error.status_code, str(error.detail), headers=error.headers)
        case _:
            return response(500, "the server failed at this; its log says why")


def invalid(errors: Sequence[Mapping[str, Any]]) -> JSONResponse:
    """What to answer to what pydantic found wrong."""
    # Of what could have stood there, what came nearest; without the names of the alternatives.
    deepest = max(len(each["loc"]) for each in errors)
    nearest = [each for each in errors if len(each["loc"]) == deepest]
    last = nearest[-1]
    parts = [str(part) for part in last["loc"][1:] if str(part).isidentifier() or part in range(9999)]
    place = ".".join(part for part, _ in groupby(parts))  # a part's type and its field have one name
    if last["type"] == "json_invalid":
        return response(400, f"body: it is no JSON ({last['ctx']['error']} at character {last['loc'][1]})")
    if not place:
        unread = "it is no JSON unless the header says Content-Type: application/json"
        return response(400, f"body: {unread if isinstance(last['input'], bytes) else 'send a JSON object'}")
    if last["type"] == "missing":
        return response(400, f"{place}: is missing", param=place)
    first, *others = dict.fromkeys(each["msg"] for each in nearest)
    told = " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
    return response(400, f"{place}: {'is null. ' if last['input'] is None else ''}{told}", param=place)


def install(app: FastAPI) -> None:
    """Have an app answer so."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return as_response(error)

    for kind in (OmniError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
