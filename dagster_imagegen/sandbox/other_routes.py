"""The routes beside generation: models, downloads of images, the request log."""

import json
import math
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dagster_imagegen.sandbox.answers import MEDIA_TYPES
from dagster_imagegen.sandbox.errors import ApiError, Dialect, render
from dagster_imagegen.sandbox.orders import DEFAULT_MODEL, ImageOrder
from dagster_imagegen.sandbox.pictures import Pictures
from dagster_imagegen.sandbox.request_log import RequestLog

# With the day on which OpenAI ends each, where it is known. Any other model is served as well.
MODELS: Mapping[str, str | None] = {
    DEFAULT_MODEL: None,
    "gpt-image-1-mini": "2026-12-01",
    "gpt-image-1.5": "2026-12-01",
    "chatgpt-image-latest": "2026-12-01",
    "gpt-image-2": None,
    "gpt-image-2.5-flare": None,
    "gpt-image-2.5-sunburst": None,
}
# Beyond it the oldest are gone, as with providers, where a url lasts an hour.
MOST_HOSTED = 10_000
# How many downloads of a url find nothing, by the fault that made it.
MISSES = {"url_late": 1, "url_gone": math.inf}


@dataclass(kw_only=True)
class Hosted:
    """Image number `index` of an order; the bytes are made again when they are fetched."""

    order: ImageOrder
    index: int
    misses: float


class Hosting:
    """Names under which images can be downloaded."""

    def __init__(self) -> None:
        self._hosted: OrderedDict[str, Hosted] = OrderedDict()

    def publish(self, order: ImageOrder, *, name: str, fault: str | None) -> list[str]:
        """The path of each image of `order`, below the server's root."""
        misses = MISSES.get(fault or "", 0)
        paths: list[str] = []
        for index in range(order.n):
            file_name = f"{name}-{index}.{order.output_format}"
            self._hosted[file_name] = Hosted(order=order, index=index, misses=misses)
            paths.append(f"sandbox/images/{file_name}")
        while len(self._hosted) > MOST_HOSTED:
            self._hosted.popitem(last=False)
        return paths

    def find(self, file_name: str) -> Hosted | None:
        """The image of that name, or None if there is none, none any more, or none yet."""
        hosted = self._hosted.get(file_name)
        if hosted is not None and hosted.misses > 0:
            hosted.misses -= 1
            return None
        return hosted


@dataclass(frozen=True, kw_only=True)
class OtherRoutes:
    """Everything that is not a generation request. All but the request log itself is logged."""

    log: RequestLog
    hosting: Hosting
    pictures: Pictures
    dialect: Dialect
    clock: Callable[[], float]

    def routes(self) -> list[Route]:
        """The routes, for Starlette."""
        return [
            Route("/v1/models", self._list_models),
            Route("/v1/models/{model:path}", self._show_model),
            Route("/sandbox/images/{name}", self._download),
            Route("/sandbox/requests", self._show_log, methods=["GET"]),
            Route("/sandbox/requests", self._clear_log, methods=["DELETE"]),
        ]

    async def no_such_route(self, request: Request, exc: Exception) -> Response:
        """The answer to a wrong address or method."""
        message = f"Invalid URL ({request.method} {request.url.path})"
        headers = getattr(exc, "headers", None) or {}  # Allow, where only the method is wrong
        error = ApiError(getattr(exc, "status_code", 404), None, message, headers=headers)
        response = error_response(error, dialect=self.dialect, request_id=new_request_id())
        return self._note(request, response)

    async def _list_models(self, request: Request) -> Response:
        listed = [_model(model) for model in MODELS]
        return self._note(request, JSONResponse({"object": "list", "data": listed}))

    async def _show_model(self, request: Request) -> Response:
        return self._note(request, JSONResponse(_model(request.path_params["model"])))

    async def _download(self, request: Request) -> Response:
        hosted = self.hosting.find(request.path_params["name"])
        if hosted is None:
            return self._note(request, Response("not found", 404))
        image = await self.pictures.final(hosted.order, hosted.index)
        media_type = MEDIA_TYPES[hosted.order.output_format]
        return self._note(request, Response(image, media_type=media_type))

    async def _show_log(self, request: Request) -> Response:
        log = {
            "totals": self.log.totals.as_json(),
            "requests": [row.as_json() for row in self.log.generations],
            "other_requests": [row.as_json() for row in self.log.others],
        }
        # Not JSONResponse: a prompt may hold a lone surrogate, which only an escape can carry.
        return Response(json.dumps(log), media_type="application/json")

    async def _clear_log(self, request: Request) -> Response:
        self.log.clear()
        return Response(status_code=204)

    def _note(self, request: Request, response: Response) -> Response:
        request_id = response.headers.setdefault("x-request-id", new_request_id())
        self.log.note(request, at=self.clock(), request_id=request_id, status=response.status_code)
        return response


def error_response(error: ApiError, *, dialect: Dialect, request_id: str) -> Response:
    """`error` as a server of that dialect answers it."""
    status, body, media_type = render(error, dialect=dialect, request_id=request_id)
    headers = {"x-request-id": request_id, **error.headers}
    return Response(body, status, headers=headers, media_type=media_type)


def new_request_id() -> str:
    """An id as OpenAI's servers make them."""
    return f"req_{uuid.uuid4().hex}"


def _model(name: str) -> dict[str, object]:
    end = MODELS.get(name)
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "dagster-imagegen-sandbox",
        **({} if end is None else {"shutdown_date": end}),
    }
