"""The sandbox's routes: how one request goes from its receipt to its answer.

received and booked -> fault drawn -> key -> refused by the fault -> limits -> hard limits
-> moderation -> credit -> work -> billed -> answered in the form of dialect, shape, or fault.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from time import perf_counter
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dagster_imagegen.sandbox import answers, metering
from dagster_imagegen.sandbox.answers import Done
from dagster_imagegen.sandbox.delivery import (
    Cut,
    CutShort,
    Events,
    EventStream,
    Unanswered,
    until_gone,
)
from dagster_imagegen.sandbox.errors import ApiError, Dialect, render
from dagster_imagegen.sandbox.faults import ODD_ANSWERS, Fault, FaultPlan, error_of
from dagster_imagegen.sandbox.hosting import Hosting
from dagster_imagegen.sandbox.limits import Gate
from dagster_imagegen.sandbox.orders import DEFAULT_MODEL, ImageOrder, Shape, parse, read_order
from dagster_imagegen.sandbox.pictures import Pictures
from dagster_imagegen.sandbox.request_log import RequestLog, key_in

MODELS = (DEFAULT_MODEL, "gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "gpt-image-2")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What stays the same for every request of one server."""

    api_key: str | None
    error_dialect: Dialect
    answer_shape: Shape
    strict_sizes: bool
    refuses: Callable[[str], bool]
    latency_seconds: tuple[float, float]
    credit_usd: Decimal | None


@dataclass(kw_only=True)
class Call:
    """One generation request on its way through."""

    request: Request
    raw: bytes
    sequence: int
    request_id: str
    fault: Fault | None
    latency_seconds: float
    started: float = field(default_factory=perf_counter)
    admitted: bool = False

    @property
    def fault_kind(self) -> str | None:
        return None if self.fault is None else self.fault.kind

    def befallen_by(self, *kinds: str) -> bool:
        return self.fault_kind in kinds


class SandboxApp:
    """The endpoint as an ASGI app, `asgi`, over the parts that it is given."""

    def __init__(
        self,
        rules: Rules,
        *,
        request_log: RequestLog,
        gate: Gate,
        faults: FaultPlan,
        pictures: Pictures,
        latencies: random.Random,
        clock: Callable[[], float],
        cut: Cut,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rules = rules
        self._request_log = request_log
        self._gate = gate
        self._faults = faults
        self._pictures = pictures
        self._latencies = latencies
        self._clock = clock
        self._cut = cut
        self._sleep = sleep
        self._hosting = Hosting()
        others = OtherRoutes(
            rules, request_log=request_log, hosting=self._hosting, pictures=pictures, clock=clock
        )
        self.asgi = Starlette(
            routes=[
                Route("/v1/images/generations", self._generate, methods=["POST"]),
                *others.routes,
            ],
            exception_handlers={HTTPException: others.no_such_route},
        )

    # One image

    async def _generate(self, request: Request) -> Response:
        call = self._receive(request, await request.body())
        response: Response | None = None
        try:
            try:
                response = await self._answer(call)
            except ApiError as error:
                response = error_response(self._rules, error, request_id=call.request_id)
            self._stamp(response, call)
            self._request_log.answer(
                call.sequence,
                status=None if isinstance(response, Unanswered) else response.status_code,
                fault=call.fault_kind,
            )
            if call.befallen_by("hang"):
                await until_gone(request.receive)
            return response
        finally:
            # Before the answer leaves: who has it may send the next request at once.
            if not isinstance(response, EventStream):
                self._leave(call)

    def _receive(self, request: Request, raw: bytes) -> Call:
        body = _as_json(raw)
        fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        fault = self._faults.take(
            prompt=str(fields.get("prompt", "")), stream=fields.get("stream") is True
        )
        request_id = new_request_id()
        sequence = self._request_log.receive(
            received_at=self._clock(),
            method=request.method,
            path=request.url.path,
            headers=dict(request.headers),
            body=body,
            request_id=request_id,
        )
        return Call(
            request=request,
            raw=raw,
            sequence=sequence,
            request_id=request_id,
            fault=fault,
            latency_seconds=self._latencies.uniform(*self._rules.latency_seconds),
        )

    def _leave(self, call: Call) -> None:
        self._request_log.leave()
        if call.admitted:
            self._gate.leave()

    async def _answer(self, call: Call) -> Response:
        self._check_key(call.request)
        error = None if call.fault is None else call.fault.error()
        if error is not None and call.fault is not None and not call.fault.is_billed:
            raise error
        self._gate.enter()
        call.admitted = True
        order = read_order(
            parse(call.raw), shape=self._rules.answer_shape, strict_sizes=self._rules.strict_sizes
        )
        self._check_prompt(order)
        self._check_credit()
        in_events = order.stream and self._rules.answer_shape != "raw"
        if in_events and error is None and not call.befallen_by(*NOT_IN_EVENTS):
            return self._stream(call, order)
        await self._sleep(call.latency_seconds)
        done = await self._work(call, order)
        if error is not None:
            raise error
        return self._deliver(call, done)

    def _check_key(self, request: Request) -> None:
        if self._rules.api_key is not None and key_in(request.headers) != self._rules.api_key:
            raise ApiError(401, "invalid_api_key", "Incorrect API key provided.")

    def _check_prompt(self, order: ImageOrder) -> None:
        if self._rules.refuses(order.prompt):
            raise error_of("moderation_blocked")

    def _check_credit(self) -> None:
        credit = self._rules.credit_usd
        if credit is not None and self._request_log.spent_usd >= credit:
            raise error_of("insufficient_quota")

    def _bill(self, call: Call, order: ImageOrder) -> Decimal:
        cost = metering.cost_usd(
            order.model, input_count=order.input_tokens, output_count=order.output_tokens
        )
        if call.fault is None or call.fault.is_billed:
            self._request_log.bill(
                call.sequence,
                input_tokens=order.input_tokens,
                output_tokens=order.output_tokens,
                cost=cost,
            )
        return cost

    async def _work(self, call: Call, order: ImageOrder) -> Done:
        painted = order
        if call.befallen_by("other_format"):
            actual = "png" if order.output_format == "jpeg" else "jpeg"
            painted = replace(order, output_format=actual, background="opaque")
        images = [await self._pictures.final(painted, index) for index in range(order.n)]
        cost = self._bill(call, order)
        urls = self._urls(call, order, images)
        created = int(self._clock())
        return Done(order=order, created=created, images=images, urls=urls, cost_usd=cost)

    def _urls(self, call: Call, order: ImageOrder, images: list[bytes]) -> list[str] | None:
        if call.befallen_by("url_data"):
            media_type = answers.MEDIA_TYPES[order.output_format]
            return [f"data:{media_type};base64,{answers.encoded(image)}" for image in images]
        if not order.as_url and not call.befallen_by("url", "url_relative", "url_late", "url_gone"):
            return None
        relative = self._rules.answer_shape == "sglang" or call.befallen_by("url_relative")
        base = "/" if relative else str(call.request.base_url)
        paths = self._hosting.publish(order, name=call.request_id, fault=call.fault_kind)
        return [base + path for path in paths]

    def _deliver(self, call: Call, done: Done) -> Response:
        if call.befallen_by("closed", "hang"):
            return Unanswered(self._cut)
        if call.befallen_by("html"):
            return HTMLResponse("<html><body>Welcome to the network. Please log in.</body></html>")
        if call.befallen_by("raw_image") or self._rules.answer_shape == "raw":
            whole = Response(done.images[0], media_type=done.media_type)
        else:
            body = answers.body_in(self._rules.answer_shape, done)
            text = answers.written(body, fault=call.fault_kind)
            whole = Response(text, media_type="application/json")
        if call.befallen_by("reset", "truncated"):
            return CutShort(whole, self._cut, reset=call.befallen_by("reset"))
        return whole

    # One image in events

    def _stream(self, call: Call, order: ImageOrder) -> Response:
        # Billed when begun: a client that leaves a stream half way pays for all of it.
        cost = self._bill(call, order)
        if call.befallen_by("closed", "hang"):
            return Unanswered(self._cut)
        return EventStream(
            self._events(call, order, cost),
            leave=lambda: self._leave(call),
            cut=self._cut if call.befallen_by("reset", "truncated") else None,
            reset=call.befallen_by("reset"),
        )

    async def _events(self, call: Call, order: ImageOrder, cost: Decimal) -> Events:
        pause = call.latency_seconds / (order.partial_images + 1)
        created = int(self._clock())
        if call.befallen_by("stream_completed_first"):
            yield await self._completed(call, order, cost, created), False
        for step in range(order.partial_images):
            await self._sleep(pause)
            image = answers.encoded(await self._pictures.partial(order, step))
            yield answers.partial_event(order, image, step=step, created=created), False
        await self._sleep(pause)
        if call.befallen_by("stream_error"):
            yield answers.ERROR_EVENT, True
        elif not call.befallen_by("stream_cut", "stream_completed_first"):
            yield await self._completed(call, order, cost, created), True

    async def _completed(self, call: Call, order: ImageOrder, cost: Decimal, created: int) -> bytes:
        images = [await self._pictures.final(order)]
        done = Done(order=order, created=created, images=images, urls=None, cost_usd=cost)
        return answers.completed_event(done, fault=call.fault_kind)

    def _stamp(self, response: Response, call: Call) -> None:
        """The headers that real servers send along; those of the error itself prevail."""
        spent = round(1000 * (perf_counter() - call.started))
        headers: Mapping[str, str] = {
            "x-request-id": call.request_id,
            "openai-processing-ms": str(spent),
            **self._gate.headers(self._rules.error_dialect),
        }
        for name, value in headers.items():
            response.headers.setdefault(name, value)


class OtherRoutes:
    """What the sandbox answers beside generations: models, hosted pictures, its request log."""

    def __init__(
        self,
        rules: Rules,
        *,
        request_log: RequestLog,
        hosting: Hosting,
        pictures: Pictures,
        clock: Callable[[], float],
    ) -> None:
        self._rules = rules
        self._request_log = request_log
        self._hosting = hosting
        self._pictures = pictures
        self._clock = clock

    @property
    def routes(self) -> list[Route]:
        """The routes of this class."""
        return [
            Route("/v1/models", self._list_models),
            Route("/v1/models/{model:path}", self._show_model),
            Route("/sandbox/images/{name}", self._download),
            Route("/sandbox/requests", self._show_log, methods=["GET"]),
            Route("/sandbox/requests", self._clear_log, methods=["DELETE"]),
        ]

    async def _list_models(self, request: Request) -> Response:
        listed = [_model(model) for model in MODELS]
        return self._note(request, JSONResponse({"object": "list", "data": listed}))

    async def _show_model(self, request: Request) -> Response:
        return self._note(request, JSONResponse(_model(request.path_params["model"])))

    async def _download(self, request: Request) -> Response:
        hosted = self._hosting.find(request.path_params["name"])
        if hosted is None:
            return self._note(request, Response("not found", 404))
        image = await self._pictures.final(hosted.order, hosted.index)
        media_type = answers.MEDIA_TYPES[hosted.order.output_format]
        return self._note(request, Response(image, media_type=media_type))

    async def _show_log(self, request: Request) -> Response:
        log = {
            "totals": self._request_log.totals.as_json(),
            "requests": [row.as_json() for row in self._request_log.generations],
            "other_requests": [row.as_json() for row in self._request_log.others],
        }
        # Not JSONResponse: a prompt may hold a lone surrogate, which only an escape can carry.
        return Response(json.dumps(log), media_type="application/json")

    async def _clear_log(self, request: Request) -> Response:
        self._request_log.clear()
        return Response(status_code=204)

    async def no_such_route(self, request: Request, exc: Exception) -> Response:
        """Answer a request for anything else."""
        status = exc.status_code if isinstance(exc, HTTPException) else 404
        message = f"Invalid URL ({request.method} {request.url.path})"
        error = ApiError(status, None, message)
        return self._note(request, error_response(self._rules, error, request_id=new_request_id()))

    def _note(self, request: Request, response: Response) -> Response:
        request_id = response.headers.setdefault("x-request-id", new_request_id())
        self._request_log.note(
            received_at=self._clock(),
            method=request.method,
            path=request.url.path,
            headers=dict(request.headers),
            status=response.status_code,
            request_id=request_id,
        )
        return response


def error_response(rules: Rules, error: ApiError, *, request_id: str) -> Response:
    """An error in the dialect of the sandbox."""
    status, body, media_type = render(error, dialect=rules.error_dialect, request_id=request_id)
    headers = {"x-request-id": request_id, **error.headers}
    return Response(body, status, headers=headers, media_type=media_type)


# A server that fails in these ways pays no heed to `stream`.
NOT_IN_EVENTS = tuple({*ODD_ANSWERS, "html", "empty_data"} - {"zero_usage", "no_usage", "nulls"})


def new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


def _as_json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dagster-imagegen-sandbox"}
