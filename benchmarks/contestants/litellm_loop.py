"""LiteLLM's client in the same loop as the `openai` client's."""

import asyncio
import base64

import litellm
from measure import Job, run

litellm.telemetry = False


async def make(job: Job) -> None:
    """All images, so many at a time."""
    turns = asyncio.Semaphore(job.in_flight)
    job.folder.mkdir(parents=True, exist_ok=True)

    async def one(number: int, prompt: str) -> None:
        async with turns:
            answer = await litellm.aimage_generation(
                model="openai/gpt-image-1-mini",
                prompt=prompt,
                quality="low",
                api_base=job.base_url,
                api_key="bench",
                num_retries=5,
            )
            data = base64.b64decode(answer.data[0].b64_json)
            await asyncio.to_thread((job.folder / f"{number}.png").write_bytes, data)

    await asyncio.gather(*(one(*each) for each in enumerate(job.prompts)))


if __name__ == "__main__":
    run(lambda job: asyncio.run(make(job)))
