"""What the steps of a sharded asset hand to each other: files beside the usage table.

    _shards/{root run}/{asset}/plan.json          what the other steps need to know; written last
    _shards/{root run}/{asset}/carried.arrow      the prompt table's other columns
    _shards/{root run}/{asset}/rows.arrow         its rows: prompt ids and fingerprints
    _shards/{root run}/{asset}/3.arrow            the requests of shard 3
    _shards/{root run}/{asset}/3.done.json        written when shard 3 has reached its end

Every step finds them by the run and the asset, so that no IO manager has to pass anything on.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta

import pyarrow as pa

from dagster_imagegen.engine.attempt import Identity, Outcome
from dagster_imagegen.engine.errors import ConfigurationError
from dagster_imagegen.engine.prompts.rows import ROWS_AT_ONCE, Column, PromptRow, PromptTable
from dagster_imagegen.engine.request import ImageRequest, canonical_json
from dagster_imagegen.engine.storage import Storage
from dagster_imagegen.run_config import ImageRedo, ImageRunConfig

FOLDER = "_shards"
KEPT_DAYS = 7
"""How long the files of a run that did not finish are kept, for its re-execution."""

LAUNCH_AGAIN = (
    "launch the asset again with all of its steps: what is in storage is not requested again"
)

_REQUEST_FIELDS = [each.name for each in fields(ImageRequest)]


@dataclass(frozen=True, kw_only=True)
class ShardedPlan:
    """What the plan step has decided for the others. `left_out` are rows that a limit left out.

    Every plan has an id of its own, so that files of another one are not taken for its own.
    """

    shards: int
    plan_only: bool = False
    left_out: int = 0
    max_usd: float | None = None
    redo: Sequence[str] = ()
    upstream: Sequence[str] | None = None
    plan_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def config(self) -> ImageRunConfig:
        """The run config, as far as it concerns the other steps."""
        return ImageRunConfig(max_usd=self.max_usd, redo=[ImageRedo(each) for each in self.redo])


def shard_of(fingerprint: str, shards: int) -> int:
    """The shard of an image: always the same, and one for all rows that want the same image."""
    return int(fingerprint[:16], 16) % shards


class ShardFiles:
    """The files of one asset in one run and its re-executions.

    Raises `ConfigurationError` where a step finds that those of the plan step are gone.
    """

    def __init__(self, storage: Storage, identity: Identity) -> None:
        self._storage = storage
        # Any text can be in a key. A run has one partition of an asset.
        asset = hashlib.sha256((identity.asset_key or "").encode()).hexdigest()[:16]
        self._folder = f"{FOLDER}/{identity.root_run_id}/{asset}"

    # -- the plan step -------------------------------------------------------------------------

    def write(self, plan: ShardedPlan, prompts: PromptTable) -> None:
        """Write the rows and their requests, instead of what an earlier try of the run left."""
        self.remove()
        if not plan.plan_only:
            self._put_rows(plan, prompts)
        self._put("plan.json", json.dumps(asdict(plan)).encode())

    def _put_rows(self, plan: ShardedPlan, prompts: PromptTable) -> None:
        rows: dict[str, Column] = {
            "prompt_id": prompts.row_columns["prompt_id"],
            "fingerprints": prompts.fingerprints_by_row(),
        }
        self._put("carried.arrow", _encoded(prompts.carried))
        self._put("rows.arrow", _encoded(pa.Table.from_pydict(rows, schema=_ROWS)))
        shards: list[dict[str, dict[str, str]]] = [{} for _ in range(plan.shards)]
        for row in prompts.each_row():
            for each in row.requests:
                shard = shards[shard_of(each.fingerprint, plan.shards)]
                # That of the first row, if several want the image.
                shard.setdefault(each.fingerprint, _request_line(each, row))
        for number, lines in enumerate(shards):
            table = pa.Table.from_pylist(list(lines.values()), schema=_REQUESTS)
            self._put(f"{number}.arrow", _encoded(table))

    def remove_old(self, now: datetime) -> None:
        """Remove what runs left here that never finished, once it is `KEPT_DAYS` old."""
        oldest = (now - timedelta(days=KEPT_DAYS)).timestamp()
        listed = self._storage.list_now(FOLDER).values()
        self._storage.delete_now(
            each.path for each in listed if each.modified is not None and each.modified < oldest
        )

    # -- the other steps -----------------------------------------------------------------------

    def plan(self) -> ShardedPlan:
        """What the plan step has decided."""
        return ShardedPlan(**json.loads(self._get("plan.json")))

    def shard(self, number: int, *, partition: str | None) -> PromptTable:
        """The distinct images of one shard as a prompt table that carries nothing."""
        return PromptTable.of(
            PromptRow(prompt_id=prompt_id, requests=(request,), partition_key=partition)
            for prompt_id, request in self._requests(number)
        )

    def finish(self, number: int, outcomes: Iterable[Outcome]) -> None:
        """Put down that a shard is at its end, and what is on no record: what it has deferred."""
        deferred = [
            [each.fingerprint, each.error_code, each.error_message]
            for each in outcomes
            if each.status == "deferred"
        ]
        self._put(f"{number}.done.json", json.dumps(deferred).encode())

    def prompts(self, plan: ShardedPlan) -> PromptTable:
        """The whole prompt table of this plan.

        Re-executions of one run share the files. Where the plan step of another one has replaced
        them, rows of one plan would meet columns of the other: that is a `ConfigurationError`.
        """
        requests = {
            request.fingerprint: request
            for number in range(plan.shards)
            for _, request in self._requests(number)
        }
        rows, carried = (_decoded(self._get(each)) for each in ("rows.arrow", "carried.arrow"))
        # The plan is removed first and written last: while it is there, so are its own files.
        if self.plan().plan_id != plan.plan_id:
            raise ConfigurationError(
                f"another re-execution of this run has replaced {self._storage.uri(self._folder)}. "
                f"Once that one has ended, {LAUNCH_AGAIN}"
            )
        each_row = (
            PromptRow(
                prompt_id=row["prompt_id"],
                requests=_of_one_row([requests[each] for each in row["fingerprints"]]),
            )
            for batch in rows.to_batches(max_chunksize=ROWS_AT_ONCE)
            for row in batch.to_pylist()
        )
        return PromptTable.of(each_row, carried=carried)

    def finished(self, plan: ShardedPlan) -> dict[int, dict[str, Outcome]]:
        """What each shard that is at its end has deferred, by fingerprint."""
        done: dict[int, dict[str, Outcome]] = {}
        for number in range(plan.shards):
            try:
                listed = json.loads(self._storage.get_now(self._path(f"{number}.done.json")))
            except FileNotFoundError:
                continue
            done[number] = {
                fingerprint: Outcome(
                    fingerprint=fingerprint, status="deferred", error_code=code, error_message=text
                )
                for fingerprint, code, text in listed
            }
        return done

    def remove(self) -> None:
        """Remove them all; the plan goes first, so that no step takes a part of them for whole."""
        listed = self._storage.list_now(self._folder)
        first = self._path("plan.json")
        self._storage.delete_now(sorted(listed, key=lambda path: path != first))

    # -- files ---------------------------------------------------------------------------------

    def _requests(self, number: int) -> Iterable[tuple[str, ImageRequest]]:
        for row in _decoded(self._get(f"{number}.arrow")).to_pylist():
            yield row["prompt_id"], ImageRequest(**json.loads(row["request"]))

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _put(self, name: str, data: bytes) -> None:
        self._storage.put_now(self._path(name), data)

    def _get(self, name: str) -> bytes:
        try:
            return self._storage.get_now(self._path(name))
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"{self._storage.uri(self._path(name))} is not there. It is written by the plan "
                "step, and removed when the run has finished, or by another run after "
                f"{KEPT_DAYS} days. To go on, {LAUNCH_AGAIN}"
            ) from error


_ROWS = pa.schema({"prompt_id": pa.string(), "fingerprints": pa.list_(pa.string())})
_REQUESTS = pa.schema({"prompt_id": pa.string(), "request": pa.large_string()})


def _request_line(request: ImageRequest, row: PromptRow) -> dict[str, str]:
    values: Mapping[str, object] = {name: getattr(request, name) for name in _REQUEST_FIELDS}
    return {"prompt_id": row.prompt_id, "request": canonical_json(values)}


def _of_one_row(found: Sequence[ImageRequest]) -> tuple[ImageRequest, ...]:
    """The requests of a row's images, with the row's own moderation, which no image depends on.

    Of an image that several rows want, the request of the first row is on file. Those are the first
    of a row's variants, and what it alone wants comes last.
    """
    return tuple(replace(found[-1], variant=each.variant) for each in found)


def _encoded(table: pa.Table) -> bytes:
    """As an Arrow stream, which, other than Parquet, holds every type that a column can have."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _decoded(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
