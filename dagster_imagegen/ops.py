"""`build_generate_images_op`: an op that makes an image table of a prompt table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import dagster as dg
from typing_extensions import Unpack

from dagster_imagegen.definition import (
    OUR_ARGUMENTS,
    check_known,
    dagster_arguments,
    named,
    step_options,
    take_resource_key,
)
from dagster_imagegen.engine.attempt import OutcomeStatus
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.request import ImageParams
from dagster_imagegen.engine.run.plan import Plan
from dagster_imagegen.incomplete import incomplete_failure, problem_metadata, problems_of
from dagster_imagegen.metadata import FinishedPass, data_version, table_metadata
from dagster_imagegen.partition_tables import Partition
from dagster_imagegen.resource import resource_of
from dagster_imagegen.returned import Returned
from dagster_imagegen.run_config import ImageRunConfig
from dagster_imagegen.step import Step, StepEvents, StepOptions, executing, failing
from dagster_imagegen.table_types import TableType, convert_table


class OpArguments(ImageParams, total=False):
    """For type checkers: the request's parameters, ours, and what `dg.op` takes.

    At run time everything that the installed `dg.op` takes is passed on to it.
    """

    overrides: Sequence[str]
    fail_on: Sequence[OutcomeStatus]
    table_type: TableType
    carry_prefix: str
    resource_key: str

    description: str
    ins: Mapping[str, dg.In]
    out: dg.Out
    required_resource_keys: set[str]
    tags: Mapping[str, Any]
    retry_policy: dg.RetryPolicy
    code_version: str
    pool: str


def build_generate_images_op(
    name: str, *, prompt: str | None = None, **arguments: Unpack[OpArguments]
) -> dg.OpDefinition:
    """Make an op for jobs and graphs: its input is a prompt table, its output the image table.

        product_shots = build_generate_images_op(
            "product_shots", prompt="A studio photo of {name}, on white", quality="low",
            retry_policy=dg.RetryPolicy(max_retries=2),
        )

        @dg.job
        def catalogue():
            publish(product_shots(load_products()))

    The op fails if a row has a status of `fail_on`, or if the pass ends early. A whole image table
    is its only output: a run of the plan alone, or of a part of the rows, yields none, so that the
    steps downstream of it are skipped. Its config has `max_usd`, `redo`, `limit` and `plan_only`.

    Args:
        name: The op's name. In a graph, `.alias` gives it another one.
        prompt: A template with the table's columns in braces; by default its column `prompt`.
        **arguments: The request's parameters (`quality`, `size`, …), everything that `dg.op` takes
            but `config_schema`, and those of `build_image_asset` that are of the table:
            `overrides`, `fail_on`, `table_type`, `carry_prefix` and `resource_key`. In `ins`, the
            prompt table is `prompt_table`, and others must be of the type `dg.Nothing`.

    Returns:
        The op. Its input `prompt_table` takes anything that speaks Arrow, a list of dicts, or a
        list of prompts.

    Raises:
        ConfigurationError: At definition time, for an argument that cannot work. A misspelt one
            is named with the nearest name that there is.
    """
    given = dict(cast("Mapping[str, Any]", arguments))
    check_known("build_generate_images_op", given, op_argument_names())
    with named(name):
        options = step_options(given, template=prompt)
        resource_key = take_resource_key(given)
        given["out"] = _optional(given.get("out", dg.Out()))
    given["required_resource_keys"] = {*given.get("required_resource_keys", ()), resource_key}
    step = _step(options, resource_key)
    given.setdefault("description", "Makes the images of a prompt table.")
    return dg.op(name=name, **given)(step)


def op_argument_names() -> frozenset[str]:
    """What `build_generate_images_op` takes beside a name and a prompt."""
    ours = set(OUR_ARGUMENTS) - {"definition", "on_incomplete", "publish", "publish_stale"}
    dagster = dagster_arguments(dg.op) - {"name", "config_schema"}
    return dagster.union(ImageParams.__annotations__, ours)


def _optional(out: object) -> dg.Out:
    """The output as one that need not be there."""
    if not isinstance(out, dg.Out) or isinstance(out, dg.DynamicOut):
        raise ConfigurationError(f"out must be one dg.Out, because the op has one, got {out!r}")
    return out._replace(is_required=False)


def _step(options: StepOptions, resource_key: str) -> Callable[..., StepEvents]:
    def step(
        context: dg.OpExecutionContext, prompt_table: Any, config: ImageRunConfig
    ) -> StepEvents:
        imagegen = resource_of(context, resource_key)
        partitions = [context.partition_key if context.has_partition_key else None]
        with executing(context, imagegen, config) as execution:
            op = _OpStep(context, execution, options, partitions)
            yield from op.run(lambda: prompt_table, config)

    # Dagster would take the annotation for the type of the output.
    del step.__annotations__["return"]
    return step


class _OpStep(Step):
    """One run of an op."""

    def _events(
        self, done: Mapping[Partition, FinishedPass], returned: Returned, *, left_out: int
    ) -> StepEvents:
        (images,) = done.values()
        problems = problems_of(done, self._options.fail_on)
        small = self._pictures(images)
        if problems:
            failure = incomplete_failure(
                self._name,
                problems,
                done,
                nothing="The op has no output",
                metadata=self._result_metadata(images, small, first=problem_metadata(problems)),
            )
            return failing([], failure)
        if left_out:
            self._log_nothing(f"the run was limited; rows not run: {left_out:,}")
            return iter(())
        table = table_metadata(images, small, carry_prefix=self._options.table.carry_prefix)
        output = dg.Output(
            convert_table(images.images, self._options.table_type),
            metadata=self._result_metadata(images, small, beside=table),
            data_version=data_version([images.images]),
        )
        return iter([output])

    def _planned(self, plan: Plan, returned: Returned, *, left_out: int) -> StepEvents:
        self._log_plan(plan)
        self._log_nothing("plan_only")
        return iter(())

    def _log_nothing(self, why: str) -> None:
        self._step_context.log.info(
            f"{self._name}: {why}. The op has no output, so the steps downstream of it are skipped"
        )
