"""Blocks of calls that are open at once, in threads of one step and in ops of one process."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from dagster_imagegen import ImageGenResource
from tests.conftest import Project, column

PROMPTS = ["mug", "tent", "lamp"]


def at_once(*works: Callable[[], object]) -> None:
    """Run each on a thread of its own; raises what one of them raised."""
    errors: list[BaseException] = []

    def caught(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised below, on the test's thread
            errors.append(error)

    threads = [threading.Thread(target=caught, args=(work,)) for work in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if errors:
        raise errors[0]


def block_of(imagegen: ImageGenResource, context: Any, both_open: threading.Barrier) -> list[str]:
    """The statuses of the images of one block, which is open while another one is."""
    with imagegen.for_asset(context) as images:
        both_open.wait(timeout=300)
        statuses = [images.generate(each, quality="low").status for each in PROMPTS]
        both_open.wait(timeout=300)
    return statuses


def assert_paid_once(project: Project, statuses: Sequence[Sequence[str]]) -> pa.Table:
    """Each image is generated in one of the blocks and reused in the other; the usage rows."""
    assert [sorted(each) for each in zip(*statuses, strict=True)] == [
        ["generated", "reused"] for _ in PROMPTS
    ]
    assert project.sent() == len(PROMPTS)
    usage = project.resource().usage()
    assert sorted(column(usage, "prompt")) == sorted(PROMPTS)
    assert not list((project.folder / "store" / "_journal").glob("*/*"))
    return usage


def test_two_threads_of_one_step(project: Project) -> None:
    """Both write at once, and neither buys what the other has bought or is buying."""
    statuses: list[list[str]] = []
    both_open = threading.Barrier(2)

    @dg.asset
    def hero(context: dg.AssetExecutionContext, imagegen: ImageGenResource) -> None:
        def work() -> None:
            statuses.append(block_of(imagegen, context, both_open))

        at_once(work, work)

    project.run(hero)
    assert_paid_once(project, statuses)


def test_two_ops_of_one_process(project: Project) -> None:
    """Runs on threads of their own, as of an executor with threads; each row names its step."""
    statuses: list[list[str]] = []
    both_open = threading.Barrier(2)

    def run_of(name: str) -> None:
        @dg.op(name=name)
        def draw(context: dg.OpExecutionContext, imagegen: ImageGenResource) -> None:
            statuses.append(block_of(imagegen, context, both_open))

        @dg.job(name=f"{name}_job", resource_defs={"imagegen": project.resource()})
        def job() -> None:
            draw()

        with dg.DagsterInstance.ephemeral() as instance:
            assert job.execute_in_process(instance=instance).success

    at_once(lambda: run_of("draw"), lambda: run_of("paint"))
    usage = assert_paid_once(project, statuses)
    assert set(column(usage, "step_key")) <= {"draw", "paint"}
