"""Twenty lines around the `openai` client: an asyncio loop that saves files."""

import asyncio
import base64

from measure import Job, run
from openai import AsyncOpenAI


async def make(job: Job) -> None:
    """All images, so many at a time."""
    turns = asyncio.Semaphore(job.in_flight)
    job.folder.mkdir(parents=True, exist_ok=True)

    async with AsyncOpenAI(base_url=job.base_url, api_key="bench", max_retries=5) as client:

        async def one(number: int, prompt: str) -> None:
            async with turns:
                answer = await client.images.generate(
                    model="gpt-image-1-mini", prompt=prompt, quality="low"
                )
                data = base64.b64decode(answer.data[0].b64_json)
                await asyncio.to_thread((job.folder / f"{number}.png").write_bytes, data)

        await asyncio.gather(*(one(*each) for each in enumerate(job.prompts)))


if __name__ == "__main__":
    run(lambda job: asyncio.run(make(job)))
