"""The sandbox's routes: how one request goes from its receipt to its answer.

logged -> fault drawn -> key -> refused by the fault -> limits -> hard limits
-> moderation -> credit -> work -> billed -> answered in the form of dialect, shape, or fault.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from time import perf_counter
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dagster_imagegen.sandbox import answers
from dagster_imagegen.sandbox.answers import Done
from dagster_imagegen.sandbox.delivery import (
    Cut,
    CutShort,
    Events,
    EventStream,
    Unanswered,
    until_gone,
)
from dagster_imagegen.sandbox.errors import ApiError, Dialect
from dagster_imagegen.sandbox.faults import ODD_ANSWERS, Fault, FaultPlan, error_of
from dagster_imagegen.sandbox.limits import Gate
from dagster_imagegen.sandbox.orders import ImageOrder, Shape, read_order
from dagster_imagegen.sandbox.other_routes import (
    Hosting,
    OtherRoutes,
    error_response,
    new_request_id,
)
from dagster_imagegen.sandbox.pictures import Pictures
from dagster_imagegen.sandbox.request_log import RequestLog, key_in


@dataclass(kw_only=True)
class Call:
    """One generation request on its way through."""

    request: Request
    fields: dict[str, Any] | None  # of the body; None if it is not a JSON object
    sequence: int
    request_id: str
    fault: Fault | None
    latency_seconds: float
    started: float = field(default_factory=perf_counter)
    admitted: bool = False

    @property
    def fault_kind(self) -> str | None:
        """The kind of its fault, if it has one."""
        return None if self.fault is None else self.fault.kind

    def fails_by(self, *kinds: str) -> bool:
        """Whether its fault is of one of `kinds`."""
        return self.fault_kind in kinds


@dataclass(frozen=True, kw_only=True)
class SandboxApp:
    """The endpoint: `build` makes an ASGI app of it. The settings are those of `Sandbox`."""

    api_key: str | None
    error_dialect: Dialect
    answer_shape: Shape
    strict_sizes: bool
    refuses: Callable[[str], bool]
    draw_latency: Callable[[], float]
    credit_usd: Decimal | None
    log: RequestLog
    gate: Gate
    faults: FaultPlan
    clock: Callable[[], float]
    pictures: Pictures
    close: Cut
    reset: Cut
    hosting: Hosting = field(default_factory=Hosting)

    def build(self) -> ASGIApp:
        """The ASGI app."""
        others = OtherRoutes(
            log=self.log,
            hosting=self.hosting,
            pictures=self.pictures,
            dialect=self.error_dialect,
            clock=self.clock,
        )
        generate = Route("/v1/images/generations", self._generate, methods=["POST"])
        return Starlette(
            routes=[generate, *others.routes()],
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
                response = error_response(
                    error, dialect=self.error_dialect, request_id=call.request_id
                )
            self._stamp(response, call)
            self.log.answer(
                call.sequence,
                status=None if isinstance(response, Unanswered) else response.status_code,
                fault=call.fault_kind,
            )
            if call.fails_by("hang"):
                await until_gone(request.receive)
            return response
        finally:
            # Before the answer is sent: a client that has it may send its next request at once.
            if not isinstance(response, EventStream):
                self._leave(call)

    def _receive(self, request: Request, raw: bytes) -> Call:
        body = _as_json(raw)
        fields = cast("dict[str, Any]", body) if isinstance(body, dict) else None
        asked = fields or {}
        fault = self.faults.take(
            prompt=str(asked.get("prompt", "")), stream=asked.get("stream") is True
        )
        request_id = new_request_id()
        sequence = self.log.receive(request, at=self.clock(), request_id=request_id, body=body)
        return Call(
            request=request,
            fields=fields,
            sequence=sequence,
            request_id=request_id,
            fault=fault,
            latency_seconds=self.draw_latency(),
        )

    def _leave(self, call: Call) -> None:
        self.log.leave()
        if call.admitted:
            self.gate.leave()

    async def _answer(self, call: Call) -> Response:
        if self.api_key not in (None, key_in(call.request.headers)):
            raise ApiError(401, "invalid_api_key", "Incorrect API key provided.")
        error = None if call.fault is None else call.fault.error()
        if error is not None and not error.billed:
            raise error
        self.gate.enter()
        call.admitted = True
        if call.fields is None:
            message = "We could not parse the body of your request; it must be a JSON object."
            raise ApiError(400, None, message)
        order = read_order(
            call.fields,
            shape=self.answer_shape,
            strict_sizes=self.strict_sizes,
            dialect=self.error_dialect,
        )
        if self.refuses(order.prompt):
            raise error_of("moderation_blocked")
        if self.credit_usd is not None and self.log.spent_usd >= self.credit_usd:
            raise error_of("insufficient_quota")
        in_events = order.stream and self.answer_shape != "raw"
        if in_events and error is None and not call.fails_by(*NOT_IN_EVENTS):
            return self._stream(call, order)
        await asyncio.sleep(call.latency_seconds)
        done = await self._work(call, order)
        if error is not None:
            raise error
        return self._deliver(call, done)

    def _bill(self, call: Call, order: ImageOrder) -> None:
        if call.fault is None or call.fault.is_billed:
            self.log.bill(call.sequence, order)

    async def _work(self, call: Call, order: ImageOrder) -> Done:
        painted = order
        if call.fails_by("other_format"):
            actual = "png" if order.output_format == "jpeg" else "jpeg"
            painted = replace(order, output_format=actual, background="opaque")
        images = [await self.pictures.final(painted, index) for index in range(order.n)]
        self._bill(call, order)
        urls = self._urls(call, order, images)
        return Done(order=order, created=int(self.clock()), images=images, urls=urls)

    def _urls(self, call: Call, order: ImageOrder, images: list[bytes]) -> list[str] | None:
        if call.fails_by("url_data"):
            media_type = answers.MEDIA_TYPES[order.output_format]
            return [f"data:{media_type};base64,{answers.encoded(image)}" for image in images]
        if not order.as_url and not call.fails_by("url", "url_relative", "url_late", "url_gone"):
            return None
        relative = self.answer_shape == "sglang" or call.fails_by("url_relative")
        base = "/" if relative else str(call.request.base_url)
        paths = self.hosting.publish(order, name=call.request_id, fault=call.fault_kind)
        return [base + path for path in paths]

    def _deliver(self, call: Call, done: Done) -> Response:
        if call.fails_by("closed", "hang"):
            return Unanswered(self.close)
        if call.fails_by("html"):
            return HTMLResponse("<html><body>Welcome to the network. Please log in.</body></html>")
        if call.fails_by("raw_image") or self.answer_shape == "raw":
            whole = Response(done.images[0], media_type=done.media_type)
        else:
            body = answers.body_in(self.answer_shape, done)
            text = answers.written(body, fault=call.fault_kind)
            whole = Response(text, media_type="application/json")
        cut = self._cut_of(call)
        return whole if cut is None else CutShort(whole, cut)

    def _cut_of(self, call: Call) -> Cut | None:
        """How the connection ends in the middle of an answer, if it does."""
        if call.fails_by("reset"):
            return self.reset
        return self.close if call.fails_by("truncated") else None

    # One image in events

    def _stream(self, call: Call, order: ImageOrder) -> Response:
        # Billed at the start: a client that leaves a stream half way pays for all of it.
        self._bill(call, order)
        if call.fails_by("closed", "hang"):
            return Unanswered(self.close)
        events = self._events(call, order)
        return EventStream(events, leave=lambda: self._leave(call), cut=self._cut_of(call))

    async def _events(self, call: Call, order: ImageOrder) -> Events:
        pause = call.latency_seconds / (order.partial_images + 1)
        created = int(self.clock())
        if call.fails_by("stream_completed_first"):
            yield await self._completed(call, order, created), False
        for step in range(order.partial_images):
            await asyncio.sleep(pause)
            image = await self.pictures.partial(order, step)
            yield answers.partial_event(order, image, step=step, created=created), False
        await asyncio.sleep(pause)
        if call.fails_by("stream_error"):
            yield answers.ERROR_EVENT, True
        elif not call.fails_by("stream_cut", "stream_completed_first"):
            yield await self._completed(call, order, created), True

    async def _completed(self, call: Call, order: ImageOrder, created: int) -> bytes:
        image = await self.pictures.final(order)
        return answers.completed_event(order, image, created=created, fault=call.fault_kind)

    def _stamp(self, response: Response, call: Call) -> None:
        """Add the headers that real servers send, unless the error has its own."""
        spent = round(1000 * (perf_counter() - call.started))
        headers: Mapping[str, str] = {
            "x-request-id": call.request_id,
            "openai-processing-ms": str(spent),
            **self.gate.headers(self.error_dialect),
        }
        for name, value in headers.items():
            response.headers.setdefault(name, value)


# A server that fails in these ways ignores `stream`.
NOT_IN_EVENTS = tuple({*ODD_ANSWERS, "html", "empty_data"} - {"zero_usage", "no_usage", "nulls"})


def _as_json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")
