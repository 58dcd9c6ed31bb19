"""Pictures for orders, made in threads while the server goes on answering, and kept for repeats."""

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, cast

from dagster_imagegen.sandbox.credentials import with_credentials
from dagster_imagegen.sandbox.orders import ImageOrder

if TYPE_CHECKING:
    from PIL import Image

NOTE = "Painted by the dagster-imagegen sandbox; no model was asked."
CACHE_BYTES = 64 * 1024 * 1024
# How much smaller a partial image is before it is enlarged again; the last one is nearly sharp.
PARTIAL_REDUCTIONS = (32, 12, 5)
SOFTWARE_TAG, DESCRIPTION_TAG = 0x0131, 0x010E  # EXIF


class Pictures:
    """Encoded images by order: equal orders get equal bytes. Used from the server's loop only.

    Args:
        paint: False makes images of eight pixels whose colours follow from the order, for tests in
            which nobody looks at them.
        credentials: Whether they have content credentials, see `credentials.py`.
    """

    def __init__(self, *, paint: bool, credentials: bool = False) -> None:
        self._paint = paint
        self._credentials = credentials
        self._threads = ThreadPoolExecutor(
            max_workers=os.cpu_count() or 1, thread_name_prefix="imagegen-sandbox-painter"
        )
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._being_made: dict[str, asyncio.Task[bytes]] = {}

    async def final(self, order: ImageOrder, index: int = 0) -> bytes:
        """Image number `index` of an order for `n` images."""
        return await self._once(_key(order, index), lambda: self._finished(order, index))

    async def partial(self, order: ImageOrder, step: int) -> bytes:
        """The image before it was sharp; step 0 is the least so."""
        whole = await self.final(order)
        reduction = PARTIAL_REDUCTIONS[-order.partial_images :][step]
        return await self._once(
            f"{_key(order, 0)}/{step}", lambda: _blurred(whole, order, reduction)
        )

    def close(self) -> None:
        """Drop what has not been started yet."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _once(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Requests for one image that overlap share its making."""
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        if key not in self._being_made:
            self._being_made[key] = asyncio.create_task(self._make_and_keep(key, make))
        return await asyncio.shield(self._being_made[key])

    async def _make_and_keep(self, key: str, make: Callable[[], bytes]) -> bytes:
        try:
            data = await asyncio.get_running_loop().run_in_executor(self._threads, make)
        finally:
            del self._being_made[key]
        self._made[key] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > CACHE_BYTES and len(self._made) > 1:
            self._kept_bytes -= len(self._made.popitem(last=False)[1])
        return data

    def _finished(self, order: ImageOrder, index: int) -> bytes:
        image = self._make(order, index)
        return with_credentials(image) if self._credentials else image

    def _make(self, order: ImageOrder, index: int) -> bytes:
        from PIL import Image  # noqa: PLC0415  # slow to import

        from dagster_imagegen.sandbox.painter import paint  # noqa: PLC0415  # likewise

        transparent = order.background == "transparent"
        seed = f"{order.model}/{order.quality}/{index}"
        if self._paint:
            size = {"width": order.width, "height": order.height}
            image = paint(order.prompt, **size, transparent=transparent, seed=seed)
        else:
            mode, pixels = ("RGBA", 32) if transparent else ("RGB", 24)
            image = Image.frombytes(mode, (2, 4), bytes.fromhex(_key(order, index))[:pixels])
        if order.output_format == "svg":
            return drawing(image, order)
        if order.output_format == "gif":
            return film(image, order)
        return encode(image, order.output_format, order.output_compression)


def encode(image: "Image.Image", output_format: str, compression: int | None = None) -> bytes:
    """`image` as a file, with a note in it that says that it comes from the sandbox.

    Args:
        image: RGB or RGBA; jpeg drops the alpha channel.
        output_format: png, webp or jpeg.
        compression: The request's `output_compression`, 0 to 100, which servers take as the quality
            of jpeg and webp. png ignores it.
    """
    from PIL import Image, PngImagePlugin  # noqa: PLC0415  # slow to import

    buffer, quality = BytesIO(), 90 if compression is None else compression
    info, exif = PngImagePlugin.PngInfo(), Image.Exif()
    info.add_text("Description", NOTE)
    exif[SOFTWARE_TAG], exif[DESCRIPTION_TAG] = "dagster-imagegen sandbox", NOTE
    if output_format == "png":
        # Level 2 takes a third of the time of the default, for files a tenth larger.
        image.save(buffer, "PNG", pnginfo=info, compress_level=2)
    elif output_format == "jpeg":
        image.convert("RGB").save(buffer, "JPEG", quality=quality, exif=exif, comment=NOTE)
    else:
        image.save(buffer, "WEBP", quality=quality, method=2, exif=exif)
    return buffer.getvalue()


def drawing(image: "Image.Image", order: ImageOrder) -> bytes:
    """`image` as an SVG: a few tiles of its colours, and the prompt as its title."""
    across, down = 8, 8
    small = image.convert("RGB").resize((across, down))
    tiles = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="#{red:02x}{green:02x}{blue:02x}"/>'
        for y in range(down)
        for x in range(across)
        for red, green, blue in [cast("tuple[int, int, int]", small.getpixel((x, y)))]
    )
    title = escape("".join(each if each.isprintable() else " " for each in order.prompt))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{order.width}" height="{order.height}" '
        f'viewBox="0 0 {across} {down}" preserveAspectRatio="none">'
        f"<title>{title}</title><desc>{NOTE}</desc>{tiles}</svg>"
    ).encode()


def film(image: "Image.Image", order: ImageOrder) -> bytes:
    """`image` as a GIF whose frames move to the right."""
    from PIL import ImageChops  # noqa: PLC0415  # slow to import

    step = max(1, image.width // order.frames)
    first, *others = (
        ImageChops.offset(image, number * step, 0).convert("RGB") for number in range(order.frames)
    )
    buffer = BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=order.frame_ms,
        loop=0,
        comment=NOTE.encode(),
    )
    return buffer.getvalue()


def _key(order: ImageOrder, index: int) -> str:
    """What decides the bytes; not streaming, nor how they are delivered."""
    asked = replace(order, n=1, partial_images=0, stream=False, as_url=False)
    return hashlib.sha256(f"{index} {asked}".encode()).hexdigest()


def _blurred(whole: bytes, order: ImageOrder, reduction: int) -> bytes:
    from PIL import Image  # noqa: PLC0415  # slow to import

    with Image.open(BytesIO(whole)) as image:
        blurred = image.reduce(reduction).resize(image.size, Image.Resampling.BICUBIC)
    return encode(blurred, order.output_format, order.output_compression)
