"""A stream of server-sent events → its image, read while it comes.

An event is known by what it holds. Its name only tells a partial image from a finished one.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import httpx
from httpx_sse import EventSource, ServerSentEvent

from dagster_imagegen.engine.endpoint.error_body import error_of_json
from dagster_imagegen.engine.endpoint.failures import AnswerHead, Failure, failure_of
from dagster_imagegen.engine.endpoint.image_json import Found, image_in_broken_json
from dagster_imagegen.engine.endpoint.image_text import spells_image
from dagster_imagegen.engine.endpoint.kinds import FailureKind
from dagster_imagegen.engine.endpoint.response import (
    AnswerContent,
    GeneratedImage,
    ImageLink,
    OnPartial,
    ambiguous,
    read_answer,
    read_found,
)
from dagster_imagegen.engine.endpoint.wire import (
    count_of,
    list_of,
    load_json,
    mapping_of,
    text_of,
)

BOM = b"\xef\xbb\xbf"
FIELD = re.compile(rb"(?:event|data|id|retry)?:", re.IGNORECASE)
ANY_FIELD = re.compile(rb"[\w-]{0,30}:(?!//)")
DATA_URL = b"data:image/"  # a body, and not the field of an event
TYPE_FIELDS = ("type", "event", "object", "status")
PARTIAL = re.compile("partial|preview|progress|intermediate|draft|thumb|step|processing")
FINAL = re.compile(r"(?:completed?|done|succeeded|success|finished|final|result)\b")
COMPLETED = re.compile(r"image\w*\.completed\b")  # the last event, also without an image
FAILED = re.compile(r"(?:error|failed|failure)\b")


def begins_events(start: bytes | bytearray, content_type: str) -> bool:
    """Whether a body begins as a stream of events. False as well while too little of it is there.

    `content_type` matters only for a first line that is neither an event's nor anything else's.
    """
    text = bytes(start[:64]).removeprefix(BOM).lstrip()
    if text[:5].lower() == b"data:" and text[: len(DATA_URL)].lower() == DATA_URL[: len(text)]:
        return False  # `data:` alone is both
    if FIELD.match(text):
        return True
    return "event-stream" in content_type.lower() and ANY_FIELD.match(text) is not None


async def read_stream(
    chunks: AsyncIterator[bytes], head: AnswerHead, *, on_partial: OnPartial | None = None
) -> AnswerContent:
    """The result of a stream of server-sent events.

    Nothing is read past a finished image or an error. At most one event and the latest partial
    image are in memory. `chunks` limits how much is read, and may raise: an event that is complete
    by then counts.
    """
    stream = _Chunks(chunks)
    # httpx-sse takes nothing but a response.
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
    reader = EventReader(head, on_partial=on_partial)
    async for event in EventSource(response).aiter_sse():
        if reader.result is None:
            for data in _values(event, whole=stream.error is None):
                reader.read(event.event, data)
            stream.wanted = reader.result is None and event.data.strip() != "[DONE]"
    result = reader.end()
    if result is None and stream.error is not None:
        raise stream.error
    return result or ambiguous(
        "stream_ended",
        f"the stream ended after {reader.partials} partial images, without a finished one",
    )


class EventReader:
    """Reads one event after another until `result` is there, or there are no more.

    A finished image is better than an error, and anything better than a partial image, which is
    kept for a stream that brings nothing else.
    """

    def __init__(self, head: AnswerHead, *, on_partial: OnPartial | None = None) -> None:
        self._head = head
        self._on_partial = on_partial
        self._partial: GeneratedImage | ImageLink | None = None
        self._unnamed: GeneratedImage | ImageLink | None = None
        self._failure: Failure | None = None
        self.partials = 0
        self.result: AnswerContent | None = None

    def read(self, name: str, data: object) -> None:
        """Take an event: `name` is its `event` field, `data` is parsed JSON or a text."""
        fields = mapping_of(data)
        names = " ".join(
            filter(None, (name, *(text_of(fields.get(key)) for key in TYPE_FIELDS)))
        ).lower()
        is_partial = bool(PARTIAL.search(names)) or "partial_image_index" in fields
        self.partials += is_partial
        result = self._of(data)
        if isinstance(result, Failure):
            self._take_failure(result, names, data, is_partial=is_partial)
        elif is_partial:
            self._partial = as_partial(result)
            if self._on_partial is not None and isinstance(result, GeneratedImage):
                index = count_of(fields.get("partial_image_index"))
                self._on_partial(self.partials - 1 if index is None else index, result.data)
        elif FINAL.search(names) or list_of(fields.get("data")):
            self.result = result
        else:
            self._unnamed, self._partial = result, None

    def end(self) -> AnswerContent | None:
        """The result when no more events come; None if none of them told anything."""
        partial, failure = self._partial, self._failure
        if self.result is not None or self._unnamed is not None:
            return self.result or self._unnamed
        if isinstance(partial, GeneratedImage) and failure is not None:
            # What the event that should have brought the image says of its cost.
            return replace(
                partial,
                tokens=failure.tokens or partial.tokens,
                reported_cost_usd=failure.reported_cost_usd or partial.reported_cost_usd,
            )
        return partial or failure

    def _of(self, data: object) -> AnswerContent:
        if isinstance(data, str) and spells_image(data):
            return read_found(Found(text=data, is_link=False, places=()))
        return read_answer(data, self._head)

    def _take_failure(
        self, failure: Failure, names: str, data: object, *, is_partial: bool
    ) -> None:
        """Take an event without an image: most are on the way to one."""
        if mapping_of(data).get("error") is not None or FAILED.search(names):
            self.result = failure_of(error_of_json(data), self._head)
        elif isinstance(data, str):
            return  # a comment, or JSON that is cut short
        elif failure.kind is not FailureKind.AMBIGUOUS:
            self.result = failure
        elif COMPLETED.search(names):
            self._failure = failure
            self.result = self.end()
        elif failure.code != "no_image" and not is_partial:
            self._failure = failure


def as_partial(result: GeneratedImage | ImageLink) -> GeneratedImage | ImageLink:
    """The same, marked as a partial image."""
    if isinstance(result, GeneratedImage):
        return replace(result, partial=True)
    return replace(result, facts=replace(result.facts, partial=True))


def _values(event: ServerSentEvent, *, whole: bool) -> Iterator[object]:
    """What an event holds: JSON, JSON lines where empty lines are missing, or a text.

    The end of an event that is not `whole` can be missing, so a text is not trusted then.
    """
    lines = event.data.splitlines() if "\n" in event.data else []
    for document in (event.data, *lines):
        try:
            yield load_json(document)
        except ValueError:
            continue
        if document is event.data:
            return
    is_closed = event.data.rstrip().endswith("}")
    if is_closed and (encoded := image_in_broken_json(event.data.encode("utf-8", "replace"))):
        is_partial = "partial_image" in event.data
        yield {"b64_json": encoded, **({"partial_image_index": None} if is_partial else {})}
    elif whole and not lines:
        yield event.data


class _Chunks(httpx.AsyncByteStream):
    """Chunks that always end with an empty line, so that a complete last event is not dropped."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.wanted = True
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        start = BOM
        try:
            async for chunk in self._chunks:
                yield chunk.removeprefix(start)
                start = b""
                if not self.wanted:
                    return
        except Exception as error:  # noqa: BLE001  # raised again after the last event is read
            self.error = error
        yield b"\n\n"
