"""What the body of an error says, in any of the shapes that endpoints use.

The shapes, and where they were seen: `{"error": {"message", "type", "param", "code"}}` (OpenAI);
`{"id", "message"}` (DigitalOcean); `{"code", "error": "text"}` (xAI); `{"detail": text or list}`
(FastAPI; fal names a refusal by an item's `type`); `error.innererror.code` with
`content_filter_result` (Azure); `error.metadata.reasons` (OpenRouter); `[{"error": {"status",
"details": [{"reason"}]}}]` (Google); `{"name", "errors": ["text"]}` (Stability); and one error as
text in the message of another, as proxies write them.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

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
TEXT_CHARACTERS = 4_000
DEPTH = 10  # how deep an error is read, and how many objects of it
OBJECTS = 1_000


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Where a code can stand, apart from the places that `codes` names.
_WORD_KEYS = _names(
    "code error error_code errorcode reason reasons type error_type errortype status name title "
    "finish_reason finishreason finish_reasons stop_reason state provider_code __type"
)
# Where a sentence about the error can stand.
_TEXT_KEYS = _names(
    "message msg error errors detail details description error_message errormessage "
    "error_description error_msg err_msg raw reason reasons title faultstring code failure_reason "
    "failurereason"
)
# What was sent, which can say anything; and what is only counted.
_SKIPPED_KEYS = _names("input inputs request prompt params parameters loc ctx url usage headers")
# Moderation flags. Those of the second line mean moderation in an answer of status 2xx only.
_FLAGS = _names(
    "flagged is_flagged nsfw is_nsfw nsfw_detected nsfw_content_detected has_nsfw_concept "
    "has_nsfw_concepts filtered content_filtered moderated moderation_blocked prompt_blocked "
    "content_blocked"
)
_FLAGS_IN_2XX = _names("blocked is_blocked moderation unsafe is_unsafe rejected")
_FLAGS_IF_FALSE = _names("respect_moderation is_safe moderation_passed")
_FLAGS_IF_TEXT = _names(
    "flagged_input refusal block_reason blockreason rai_filtered_reason raifilteredreason"
)
_VERDICT_KEYS = _names("moderation moderation_status moderation_result safety")
_VERDICTS = _names("blocked flagged rejected refused filtered")
_ABOUT_THE_PROMPT = _names(
    "flagged_input prompt_feedback promptfeedback prompt_filter_results prompt_blocked"
)
# A code inside a text: `OpenAIException - {'error': {'code': 'x'}}`, also cut off or escaped.
_CODE_IN_TEXT = re.compile(
    r"""["'](?:code|type|reason|status)\\{0,4}["']\s?:\s?\\{0,4}["']([\w.:-]{3,64})\\{0,4}["']"""
)
_FLAG_IN_TEXT = re.compile(r"""["'](?:filtered|flagged)\\{0,4}["']\s?:\s?true\b""", re.IGNORECASE)
_ABSENT = ("none", "null", "undefined")


@dataclass(frozen=True, kw_only=True)
class ErrorBody:
    """What an error says.

    `codes` are its codes and types, the most specific first; `words` is what stands in all other
    places where some endpoint puts a code, and can be anything. `text` is all that it says in
    sentences. `flagged`: a moderation flag is set, whatever the codes say. `names_parameter`: it is
    about a parameter other than the prompt.
    """

    message: str | None
    codes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    text: str = ""
    flagged: bool = False
    names_parameter: bool = False
    request_id: str | None = None
    moderation_stage: str | None = None
    tokens: TokenUsage | None = None
    reported_cost_usd: Decimal | None = None


def read_error(body: bytes | bytearray) -> ErrorBody:
    """Read a body in any of the shapes above, as an HTML page or as plain text."""
    start = bytes(body[:ERROR_BODY_BYTES])
    try:
        value = load_json(_data_of_event(start))
    except ValueError:
        return _error_of_text(decode(start))
    return error_of_json(value)


def error_of_json(value: object) -> ErrorBody:
    """Read an error that is parsed JSON already."""
    return _error_of_json(value, flags=_FLAGS)


def flags_of_success(answer: object) -> ErrorBody:
    """Read an answer of status 2xx that holds no image, with all moderation flags.

    `moderation_stage` is "output" unless the answer says that the prompt was blocked: a status of
    success means that work was done, so the image may have been made and billed.
    """
    error = _error_of_json(answer, flags=_FLAGS | _FLAGS_IN_2XX)
    keys = {key.lower() for node in _objects(answer) for key in node}
    about_prompt = bool(keys & _ABOUT_THE_PROMPT)
    stage = first(error.moderation_stage, "input" if about_prompt else "output")
    return replace(error, moderation_stage=stage)


def _error_of_json(value: object, *, flags: frozenset[str]) -> ErrorBody:
    top = _top(value)
    inner = top.get("error")
    error = mapping_of(inner)
    azure = mapping_of(first(error.get("inner_error"), error.get("innererror")))
    details = mapping_of(first(error.get("moderation_details"), top.get("moderation_details")))
    reasons = list_of(mapping_of(error.get("metadata")).get("reasons"))
    stage = message_of(details.get("moderation_stage"), limit=CODE_CHARACTERS)
    codes = (
        *(error.get("code"), azure.get("code"), error.get("type"), top.get("code"), top.get("id")),
        None if top.get("type") == "error" else top.get("type"),
    )
    problems = [mapping_of(item) for item in list_of(top.get("detail"))]
    message = first(
        message_of(error.get("message")),
        message_of(inner),
        message_of(top.get("message")),
        _message_of_detail(top.get("detail")),
        _message_of_list(first(top.get("errors"), error.get("errors"))),
        *(message_of(top.get(key)) for key in ("msg", "error_message", "error_msg", "title")),
        message_of(value),
    )
    text = _text(value)
    verdict = mapping_of(top.get("moderation"))
    categories = first(
        *(place.get("categories") for place in (details, verdict, *problems)), reasons or None
    )
    parameter = message_of(error.get("param"), limit=CODE_CHARACTERS) or ""
    return ErrorBody(
        message=_with_moderation(message, stage, categories),
        codes=tuple(code for code in map(_code, codes) if code),
        words=tuple(_words(value, text)),
        text=text,
        flagged=bool(details or reasons)
        or bool(_FLAG_IN_TEXT.search(text))
        or any(_is_flagged(node, flags) for node in _objects(value)),
        names_parameter=parameter.lower() not in ("", "prompt", *_ABSENT),
        request_id=message_of(first(top.get("request_id"), error.get("request_id")), limit=200),
        moderation_stage=stage,
        tokens=first(tokens_of(top.get("usage")), tokens_of(error.get("usage"))),
        reported_cost_usd=first(cost_of(top.get("usage")), cost_of(error.get("usage"))),
    )


def _top(value: object) -> Mapping[str, Any]:
    """The object that is the error. Google wraps it in a list; fal's is a list of problems."""
    start = mapping_of(next(iter(list_of(value)), value))
    return {"detail": value} if isinstance(value, list) and "msg" in start else start


def _code(value: object) -> str | None:
    code = message_of(value, limit=CODE_CHARACTERS)
    return None if code and code.lower() in _ABSENT else code


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    """All objects of an error, the outer ones first, without those that repeat the request."""
    waiting = deque([(value, 0)])
    for _ in range(OBJECTS):
        if not waiting:
            return
        node, depth = waiting.popleft()
        fields = mapping_of(node)
        if fields:
            yield fields
        if depth == DEPTH:
            continue
        inner = [item for key, item in fields.items() if key.lower() not in _SKIPPED_KEYS]
        waiting += [(i, depth + 1) for i in (inner or list_of(node)) if isinstance(i, (dict, list))]


def _words(value: object, text: str) -> Iterator[str]:
    for node in _objects(value):
        for key, item in node.items():
            if key.lower() in _WORD_KEYS:
                yield from filter(None, map(_code, list_of(item)[:20] or [item]))
    yield from _CODE_IN_TEXT.findall(text)


def _text(value: object) -> str:
    """All sentences of an error, a line each."""
    lines = [value] if isinstance(value, str) else []
    for node in _objects(value):
        for key, item in node.items():
            if key.lower() in _TEXT_KEYS:
                said = list_of(item)[:20] or [item]
                lines += [line for line in said if isinstance(line, str) and line not in lines]
    return "\n".join(line[:TEXT_CHARACTERS] for line in lines[:50])[:TEXT_CHARACTERS]


def _is_flagged(node: Mapping[str, Any], flags: frozenset[str]) -> bool:
    for name, value in node.items():
        key = name.lower()
        said = value.strip().lower() if isinstance(value, str) else ""
        if key in flags and (value is True or True in list_of(value)[:20] or said == "true"):
            return True
        if key in _FLAGS_IF_FALSE and value is False:
            return True
        if key in _FLAGS_IF_TEXT and said and not said.endswith("unspecified"):
            return True
        if key in _VERDICT_KEYS and said in _VERDICTS:
            return True
    return False


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
        said = message_of(first(problem.get("msg"), problem.get("message"))) or "not valid"
        steps = [
            step if isinstance(step, str) else message_of(step, limit=60) or "0"
            for step in list_of(problem.get("loc"))[:20]
        ]
        lines.append(f"{'.'.join(steps)}: {said}" if steps else said)
    fields = mapping_of(detail)
    return first(
        message_of("; ".join(lines)),
        message_of(detail),
        *(message_of(fields.get(key)) for key in ("message", "msg", "error", "reason")),
        message_of(mapping_of(fields.get("error")).get("message")),
    )


def _message_of_list(errors: object) -> str | None:
    """Texts, or objects with a message each, as one text."""
    items = list_of(errors)[:5]
    said = [first(message_of(mapping_of(i).get("message")), message_of(i)) for i in items]
    return message_of("; ".join(filter(None, said)))


def _error_of_text(text: str) -> ErrorBody:
    """Plain text; of an HTML page only the title, because a page does not come from the model."""
    if not re.match(r"\ufeff?\s*<", text):
        said = text[:TEXT_CHARACTERS]
        return ErrorBody(
            message=message_of(text),
            words=tuple(_CODE_IN_TEXT.findall(said)),
            text=said,
            flagged=bool(_FLAG_IN_TEXT.search(said)),
        )
    title = re.search(r"<title[^>]{0,200}>(.{0,500}?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title.group(1) if title else re.sub(r"<[^>]{0,2000}>", " ", text[:20_000])
    return ErrorBody(message=message_of(f"HTML page: {words}"))


def _data_of_event(body: bytes) -> bytes:
    """The data of an `error` event that came with an error status; any other body unchanged."""
    if not body.startswith((b"event:", b"data:")):
        return body
    return b"".join(re.findall(rb"^data: ?(.*)$", body, re.MULTILINE))
