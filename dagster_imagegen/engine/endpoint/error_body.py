"""What the body of an error says, in any of the shapes that endpoints use."""

import re
from dataclasses import dataclass
from decimal import Decimal

from dagster_imagegen.engine.attempt import TokenUsage
from dagster_imagegen.engine.endpoint.wire import (
    cost_of,
    decode,
    first,
    list_of,
    load_json,
    mapping_of,
    message_of,
    tokens_of,
)

CODE_CHARACTERS = 100
ERROR_BODY_BYTES = 262_144  # the rest of a longer error is not read


@dataclass(frozen=True, kw_only=True)
class ErrorBody:
    """What an error says. `codes` are its codes and types, the most specific first."""

    message: str | None
    codes: tuple[str, ...] = ()
    request_id: str | None = None
    moderation_stage: str | None = None
    tokens: TokenUsage | None = None
    reported_cost_usd: Decimal | None = None


def read_error(body: bytes | bytearray) -> ErrorBody:
    """Read a body as OpenAI, DigitalOcean, xAI, FastAPI, Azure or an HTML page writes errors."""
    start = bytes(body[:ERROR_BODY_BYTES])
    try:
        return error_of_json(load_json(_data_of_event(start)))
    except ValueError:
        return ErrorBody(message=_message_of_page(decode(start)))


def error_of_json(value: object) -> ErrorBody:
    """Read an error that is parsed JSON already."""
    top = mapping_of(next(iter(list_of(value)), value))
    inner = top.get("error")
    error = mapping_of(inner)
    azure = mapping_of(first(error.get("inner_error"), error.get("innererror")))
    details = mapping_of(first(error.get("moderation_details"), top.get("moderation_details")))
    stage = message_of(details.get("moderation_stage"), limit=CODE_CHARACTERS)
    codes = (
        *(error.get("code"), azure.get("code"), error.get("type"), top.get("code"), top.get("id")),
        None if top.get("type") == "error" else top.get("type"),
    )
    message = first(
        message_of(error.get("message")),
        message_of(inner),
        message_of(top.get("message")),
        _message_of_detail(top.get("detail")),
        message_of(value),
    )
    return ErrorBody(
        message=_with_moderation(message, stage, details.get("categories")),
        codes=tuple(code for code in (message_of(c, limit=CODE_CHARACTERS) for c in codes) if code),
        request_id=message_of(first(top.get("request_id"), error.get("request_id")), limit=200),
        moderation_stage=stage,
        tokens=tokens_of(top.get("usage")),
        reported_cost_usd=cost_of(top.get("usage")),
    )


def _with_moderation(message: str | None, stage: str | None, categories: object) -> str | None:
    # A list names the categories; an object has a true for each: {"violence": true, …}.
    items = list_of(categories) or [name for name, on in mapping_of(categories).items() if on]
    names = [name for name in (message_of(item, limit=60) for item in items) if name]
    facts = [f"stage {stage}"] if stage else []
    if names:
        facts.append(f"categories {', '.join(names[:10])}")
    return f"{message or 'refused'} ({'; '.join(facts)})" if facts else message


def _message_of_detail(detail: object) -> str | None:
    """FastAPI's detail: a text, or a list of what did not validate and where."""
    lines: list[str] = []
    for problem in map(mapping_of, list_of(detail)[:5]):
        place = ".".join(str(step) for step in list_of(problem.get("loc")))
        lines.append(f"{place}: {problem.get('msg')}" if place else str(problem.get("msg")))
    return first(
        message_of("; ".join(lines)),
        message_of(detail),
        message_of(mapping_of(detail).get("message")),
    )


def _message_of_page(text: str) -> str | None:
    """The title of an HTML page; of any other text, its beginning."""
    if not re.match(r"\ufeff?\s*<", text):
        return message_of(text)
    title = re.search(r"<title[^>]{0,200}>(.{0,500}?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title.group(1) if title else re.sub(r"<[^>]{0,2000}>", " ", text[:20_000])
    return message_of(f"HTML page: {words}")


def _data_of_event(body: bytes) -> bytes:
    """The data of an `error` event that came with an error status; any other body unchanged."""
    if not body.startswith((b"event:", b"data:")):
        return body
    return b"".join(re.findall(rb"^data: ?(.*)$", body, re.MULTILINE))
