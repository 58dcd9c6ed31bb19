"""Images in storage, as several passes of a process use them."""

import asyncio
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from dagster_imagegen.engine.images import Images
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.patience import Patience
from dagster_imagegen.engine.storage import Storage

FINGERPRINT = "ab" * 32


def test_passes_on_several_threads_look_for_an_image_at_once(tmp_path: Path) -> None:
    """Each event loop gets its own answer, and none waits for another loop's."""
    storage = Storage(str(tmp_path / "images"))
    images = Images(
        storage,
        spill=Storage(str(tmp_path / "spill")),
        prices=PriceList.default(),
        now=lambda: datetime.now(timezone.utc),
        patience=Patience(),
    )
    path = f"images/ab/{FINGERPRINT}.a-0.png"
    storage.put_now(path, b"whatever")
    found: list[Mapping[str, str]] = []

    async def alone() -> None:
        found.append(await asyncio.wait_for(images.find(FINGERPRINT), 10))

    async def two() -> None:
        first = asyncio.create_task(images.find(FINGERPRINT))
        await asyncio.sleep(0)  # It has asked, and nobody has begun to look.
        second = threading.Thread(target=lambda: asyncio.run(alone()))
        second.start()
        second.join(5)
        found.append(await asyncio.wait_for(first, 10))
        second.join()

    asyncio.run(two())
    assert found == [{"a-0": path}] * 2
