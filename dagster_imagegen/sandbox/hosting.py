"""Images that were answered as a `url`, until they are fetched from there."""

import math
from collections import OrderedDict
from dataclasses import dataclass

from dagster_imagegen.sandbox.orders import ImageOrder

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
    """Hands out names for images, and finds them again."""

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
        """What lies there, or None: never was, no longer is, or not yet."""
        hosted = self._hosted.get(file_name)
        if hosted is not None and hosted.misses > 0:
            hosted.misses -= 1
            return None
        return hosted
