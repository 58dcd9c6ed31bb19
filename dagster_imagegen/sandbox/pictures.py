"""Pictures for orders, made in threads while the server goes on answering; kept for repeats."""

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING

from dagster_imagegen.sandbox.orders import ImageOrder

if TYPE_CHECKING:
    from PIL import Image

CACHE_BYTES = 64 * 1024 * 1024
# How much smaller a partial picture is before it is stretched again; the last one is nearly sharp.
PARTIAL_REDUCTIONS = (32, 12, 5)


class Pictures:
    """Encoded images by order: the same bytes for the same order, however often it is asked.

    With `paint=False` a picture is a few pixels coloured by the prompt, made in no time, for load
    tests in which nobody looks.
    """

    def __init__(self, *, paint: bool) -> None:
        self._paint = paint
        self._threads = ThreadPoolExecutor(
            max_workers=os.cpu_count() or 1, thread_name_prefix="imagegen-sandbox-painter"
        )
        self._lock = threading.Lock()
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._being_made: dict[str, Future[bytes]] = {}

    async def final(self, order: ImageOrder, index: int = 0) -> bytes:
        """Image number `index` of an order for `n`."""
        key = _key(order, index)
        return await self._once(key, lambda: self._make(order, index))

    async def partial(self, order: ImageOrder, step: int) -> bytes:
        """The picture while it was not yet sharp: step 0 is the least so."""
        whole = await self.final(order)
        reductions = PARTIAL_REDUCTIONS[-order.partial_images :]
        return await self._once(
            f"{_key(order, 0)}/{step}", lambda: _blurred(whole, order, reductions[step])
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Requests for one picture that overlap share its making."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            future = self._being_made.get(key)
            if future is None:
                future = self._threads.submit(self._make_and_keep, key, make)
                self._being_made[key] = future
        return await asyncio.wrap_future(future)

    def _make_and_keep(self, key: str, make: Callable[[], bytes]) -> bytes:
        try:
            data = make()
            with self._lock:
                self._made[key] = data
                self._kept_bytes += len(data)
                while self._kept_bytes > CACHE_BYTES and len(self._made) > 1:
                    self._kept_bytes -= len(self._made.popitem(last=False)[1])
            return data
        finally:
            with self._lock:
                self._being_made.pop(key, None)

    def _make(self, order: ImageOrder, index: int) -> bytes:
        from dagster_imagegen.sandbox import painter  # noqa: PLC0415  # Pillow is slow to import

        if self._paint:
            image = painter.paint(
                order.prompt,
                width=order.width,
                height=order.height,
                quality=order.quality,
                background=order.background,
                variant_seed=f"{order.model}/{index}",
            )
        else:
            image = _swatch(order, index)
        return painter.encode(
            image, output_format=order.output_format, compression=order.output_compression
        )


def _key(order: ImageOrder, index: int) -> str:
    """What decides the picture; not streaming, nor how it is delivered."""
    asked = (
        order.model,
        order.prompt,
        order.size,
        order.quality,
        order.background,
        order.output_format,
        order.output_compression,
        index,
    )
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def _swatch(order: ImageOrder, index: int) -> "Image.Image":
    from PIL import Image  # noqa: PLC0415  # slow to import

    mode = "RGBA" if order.background == "transparent" else "RGB"
    digest = bytes.fromhex(_key(order, index))
    return Image.frombytes(mode, (2, 4), digest[: 8 * len(mode)])


def _blurred(whole: bytes, order: ImageOrder, reduction: int) -> bytes:
    from PIL import Image  # noqa: PLC0415  # slow to import

    from dagster_imagegen.sandbox import painter  # noqa: PLC0415  # slow to import

    with Image.open(BytesIO(whole)) as image:
        small = image.reduce(reduction)
        blurred = small.resize(image.size, Image.Resampling.BICUBIC)
    return painter.encode(
        blurred, output_format=order.output_format, compression=order.output_compression
    )
