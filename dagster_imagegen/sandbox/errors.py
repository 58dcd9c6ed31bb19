"""Answers that are errors, and the form that each kind of server gives them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Dialect = Literal["openai", "digitalocean", "xai", "fastapi", "azure", "html", "empty", "not_utf8"]

# Codes that DigitalOcean's public API spells in its own way.
DIGITALOCEAN_IDS = {
    "rate_limit_exceeded": "too_many_requests",
    "invalid_api_key": "unauthorized",
    "model_not_found": "not_found",
}


@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        code: The machine-readable code, where the answer has one.
        message: For people.
        error_type: The `type` of OpenAI's error bodies.
        param: The request's parameter that is at fault.
        headers: Sent with the answer.
        extra: Further fields of the error body.
        body: The whole body instead, whatever the dialect.
        billed: The work was done before it failed.
    """

    status: int
    code: str | None
    message: str
    error_type: str = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    body: Mapping[str, Any] | None = None
    billed: bool = False


def render(error: ApiError, *, dialect: Dialect, request_id: str) -> tuple[int, bytes, str]:
    """Status, body and content type of `error` as a server of that dialect writes it."""
    status = error.status
    if error.body is not None:
        return status, json.dumps(error.body).encode(), "application/json"
    if dialect == "empty":
        return status, b"", "text/plain"
    if dialect == "html":
        page = f"<html><head><title>{status}</title></head><body>{error.message}</body></html>"
        return status, page.encode("utf-8", "replace"), "text/html; charset=utf-8"
    if dialect == "not_utf8":
        return status, b"\xff\xfe " + error.message.encode("utf-16-le", "replace"), "text/plain"
    if dialect == "fastapi" and error.param is not None:
        status = 422  # FastAPI's own, for a failed validation
    return status, json.dumps(_body(error, dialect, request_id)).encode(), "application/json"


def _body(error: ApiError, dialect: Dialect, request_id: str) -> dict[str, Any]:
    message = error.message
    if dialect == "digitalocean":
        identifier = error.code or error.error_type
        spelled = DIGITALOCEAN_IDS.get(identifier, identifier)
        return {"id": spelled, "message": message, "request_id": request_id}
    if dialect == "xai":
        return {"code": str(error.status), "error": message}
    if dialect == "fastapi" and error.param is not None:
        where = ["body", error.param]
        return {"detail": [{"loc": where, "msg": message, "type": error.code}]}
    if dialect == "fastapi":
        return {"detail": message}
    if dialect == "azure" and error.code == "moderation_blocked":
        inner = {"code": "ResponsibleAIPolicyViolation"}
        return {"error": {"code": "contentFilter", "message": message, "inner_error": inner}}
    openai = {"message": message, "type": error.error_type, "param": error.param}
    return {"error": {**openai, "code": error.code, **error.extra}}
