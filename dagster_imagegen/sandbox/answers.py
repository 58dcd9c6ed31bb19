"""Answers with an image, in the shapes of the servers that speak the protocol."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_imagegen.sandbox import metering
from dagster_imagegen.sandbox.orders import ImageOrder, Shape

MEDIA_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "svg": "image/svg+xml",
}
SVG_AUTHOR = "sandbox-svg-author"
NEVER_NULL = ("created", "data", "b64_json", "url", "type", "created_at")
ERROR_EVENT = b"""event: error
data: {"type":"error","error":{"type":"image_generation_server_error",\
"code":"image_generation_failed","message":"Image generation failed.","param":null}}

"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """An order that was completed and billed."""

    order: ImageOrder
    created: int
    images: Sequence[bytes]
    urls: Sequence[str] | None  # instead of the images

    @property
    def media_type(self) -> str:
        """The content type of the images."""
        return MEDIA_TYPES[self.order.output_format]


def body_in(shape: Shape, done: Done) -> dict[str, Any]:
    """The JSON answer of a server of that shape."""
    order, counts = done.order, usage(done.order)
    created = {"created": done.created}
    match shape:
        case "bare":
            return {**created, "data": _entries(done)}
        case "together":
            entries = [{"index": i, **entry} for i, entry in enumerate(_entries(done))]
            return {"id": "sandbox", "model": order.model, "object": "list", "data": entries}
        case "xai":
            entries = _entries(done, revised_prompt="", mime_type=done.media_type)
            return {"data": entries, "usage": {"cost_in_usd_ticks": int(order.cost_usd * 10**10)}}
        case "sglang":
            counts = {
                "prompt_tokens": order.input_tokens,
                "completion_tokens": order.output_tokens,
                "total_tokens": order.input_tokens + order.output_tokens,
                "image_count": order.n,
            }
            return {"id": "sandbox", **created, "data": _entries(done), "usage": counts}
        case "vllm":
            nulls = {"url": None, "b64_json": None, "revised_prompt": None}
            entries = [{**nulls, **entry} for entry in _entries(done)]
            return {**created, "data": entries, "metrics": {"generation_seconds": 0.1}}
        case "localai":
            return {**created, "id": "sandbox", "data": _entries(done), "usage": zeroed(counts)}
        case _:
            entries = _entries(done, revised_prompt=f"Sandbox picture: {order.prompt}")
            answer = {**created, "data": entries, **resolved_fields(order), "usage": counts}
            if order.output_format == "svg":
                answer["svg_usage"] = svg_usage(done)
            return answer if shape != "litellm" else {**answer, "usage": zeroed(counts)}


def usage(order: ImageOrder) -> dict[str, Any]:
    """Token counts as OpenAI gives them; all of an image's output is image tokens."""
    counted, made = order.input_tokens, order.output_tokens
    return {
        "input_tokens": counted,
        "input_tokens_details": {"text_tokens": counted, "image_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
        "total_tokens": counted + made,
    }


def svg_usage(done: Done) -> dict[str, Any]:
    """The tokens of the model that wrote the drawing, by its length; they have no list price."""
    given = done.order.input_tokens
    made = metering.input_tokens(done.images[0].decode())
    return {
        "model": SVG_AUTHOR,
        "input_tokens": given,
        "output_tokens": made,
        "reasoning_tokens": 0,
        "total_tokens": given + made,
    }


def zeroed(value: Any) -> Any:
    """`value` with every number in it 0: what proxies that count nothing answer."""
    if isinstance(value, Mapping):
        return {name: zeroed(inner) for name, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]  # JSON
    return 0 if isinstance(value, int) else value


def encoded(image: bytes) -> str:
    """`image` in base64."""
    return base64.b64encode(image).decode("ascii")


def resolved_fields(order: ImageOrder) -> dict[str, str]:
    """The settings that the answer reports: what each `auto` turned into."""
    return {
        "background": order.background,
        "output_format": order.output_format,
        "quality": order.quality,
        "size": order.size,
    }


def written(body: dict[str, Any], *, fault: str | None) -> bytes:
    """`body` as JSON, damaged in the way of `fault` if that fault is about what is in a body.

    `body` is the whole answer, or the payload of a stream's last event, which is its own entry.
    """
    entries: list[dict[str, Any]] = body.get("data", [body])
    if fault == "empty_data":
        body["data"] = []
    elif fault == "zero_usage":
        body["usage"] = zeroed(body.get("usage", {}))
    elif fault == "no_usage":
        body.pop("usage", None)
    elif fault == "nulls":
        for part in (body, *entries):
            part.update({name: None for name in part if name not in NEVER_NULL})
    for entry in entries:
        if fault == "no_image":
            entry.pop("b64_json", None)
            entry.pop("url", None)
        elif fault == "broken_base64":
            entry["b64_json"] = "*" + encoded(b"not an image")[1:]
    text = json.dumps(body).encode()
    return text[: len(text) // 2] if fault == "broken_json" else text


def partial_event(order: ImageOrder, image: bytes, *, step: int, created: int) -> bytes:
    """One `partial_image` event of a stream."""
    payload = {**_payload(order, image, "partial_image", created), "partial_image_index": step}
    return _event("partial_image", json.dumps(payload).encode())


def completed_event(order: ImageOrder, image: bytes, *, created: int, fault: str | None) -> bytes:
    """The event that holds the picture and the usage."""
    payload = {**_payload(order, image, "completed", created), "usage": usage(order)}
    return _event("completed", written(payload, fault=fault))


def _payload(order: ImageOrder, image: bytes, event: str, created: int) -> dict[str, Any]:
    return {
        "type": f"image_generation.{event}",
        "b64_json": encoded(image),
        "created_at": created,
        **resolved_fields(order),
    }


def _event(name: str, data: bytes) -> bytes:
    return b"event: image_generation." + name.encode() + b"\ndata: " + data + b"\n\n"


def _entries(done: Done, **more: Any) -> list[dict[str, Any]]:
    if done.urls is not None:
        return [{"url": url, **more} for url in done.urls]
    return [{"b64_json": encoded(image), **more} for image in done.images]
