"""The least that can be done with aiohttp: `python bare_loop.py plain|fsync`.

`fsync` makes each file durable as this project does: a temporary, fsync, rename, fsync of the
folder.
"""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path

import aiohttp
from measure import Job, run


def save(path: Path, text: str) -> None:
    """Decode and write."""
    path.write_bytes(base64.b64decode(text))


def save_durably(path: Path, text: str) -> None:
    """The same, and nothing of it is lost when the machine loses power."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(base64.b64decode(text))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


async def make(job: Job, *, durably: bool) -> None:
    """All images, so many at a time."""
    turns = asyncio.Semaphore(job.in_flight)
    job.folder.mkdir(parents=True, exist_ok=True)
    store = save_durably if durably else save
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(number: int, prompt: str) -> None:
            body = {"model": "gpt-image-1-mini", "prompt": prompt, "quality": "low"}
            async with turns:
                address = f"{job.base_url}/images/generations"
                async with session.post(address, json=body) as response:
                    response.raise_for_status()
                    answer = json.loads(await response.read())
                text = answer["data"][0]["b64_json"]
                await asyncio.to_thread(store, job.folder / f"{number}.png", text)

        await asyncio.gather(*(one(*each) for each in enumerate(job.prompts)))


if __name__ == "__main__":
    durably = sys.argv.pop(1) == "fsync"
    run(lambda job: asyncio.run(make(job, durably=durably)))
