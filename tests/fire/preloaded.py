"""What the processes of these tests import, read and set up once: they are forked after it."""

import gc
import importlib

from dagster_imagegen.engine.endpoint.client import ImageClient
from dagster_imagegen.engine.money.price_list import PriceList

for name in (
    "PIL.PngImagePlugin",
    "anyio._backends._asyncio",
    "httpcore",
    "pytest",
    "s3fs",
    "tests.fire.provider",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.auto",
):
    importlib.import_module(name)
PriceList.default()
ImageClient(base_url="http://127.0.0.1/v1")  # reads all certificates, even to use none
gc.freeze()  # or each process would soon have a copy of it all, by looking through it
