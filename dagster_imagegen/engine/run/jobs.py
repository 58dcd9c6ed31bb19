"""The images of a plan that are not paid for: columns, of which objects are made when needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.engine.attempt import UNKNOWN_COST, Cost, Outcome
from dagster_imagegen.engine.money.price_list import PriceList
from dagster_imagegen.engine.prompts.rows import Column, PromptRow, PromptTable
from dagster_imagegen.engine.request import ImageRequest
from dagster_imagegen.engine.run.verdict import NONE_UNRESOLVED, Unresolved, Verdict

AT_ONCE = 256
"""How many jobs are made at a time for whoever takes them one by one."""

_NOTHING_KNOWN = Verdict()


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One distinct image that is wanted and is not paid for and in storage, as far as columns say.

    `known` is its outcome where nothing is to be sent.
    Otherwise `tried` is what came of the latest request for it in this run, if there was one.
    `least` and `worst_case` are what one request for it can cost.
    """

    request: ImageRequest
    prompt_id: str
    partition_key: str | None = None
    """The partition of the first row that wants it, in a pass over several."""
    known: Outcome | None = None
    tried: Outcome | None = None
    unresolved: Unresolved = NONE_UNRESOLVED
    least: Cost = UNKNOWN_COST
    worst_case: Cost = UNKNOWN_COST


class Jobs:
    """The jobs of a plan, in the order of its prompt table.

    A job is made whenever somebody asks for it, so that a pass holds no more of them than it works
    on: each takes a kilobyte.

    Args:
        images: Which of the images of `prompts` they are.
        judged: The verdicts on those that something is on record of, by their place among these.
    """

    def __init__(
        self,
        prompts: PromptTable,
        images: Column,
        *,
        judged: Mapping[int, Verdict],
        prices: PriceList,
    ) -> None:
        self._prompts = prompts
        self._images = images
        self._judged = judged
        self._prices = prices
        self._latest: tuple[int, list[Job]] = (0, [])

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Job]:
        rows = self._prompts.wanted(self._images)
        return (self._job(place, row) for place, row in enumerate(rows))

    def __getitem__(self, place: int) -> Job:
        """One of them. Quick for places that follow one another."""
        start, jobs = self._latest
        if not start <= place < start + len(jobs):
            rows = self._prompts.wanted(self._images.slice(place, AT_ONCE))
            jobs = [self._job(at, row) for at, row in enumerate(rows, place)]
            self._latest = (place, jobs)
            start = place
        return jobs[place - start]

    def _job(self, place: int, row: PromptRow) -> Job:
        request, verdict = row.requests[0], self._judged.get(place, _NOTHING_KNOWN)
        unknown = UNKNOWN_COST, UNKNOWN_COST
        least, most = self._prices.bounds(request) if verdict.known is None else unknown
        return Job(
            request=request,
            prompt_id=row.prompt_id,
            partition_key=row.partition_key,
            known=verdict.known,
            tried=verdict.tried,
            unresolved=verdict.unresolved,
            least=least,
            worst_case=most,
        )

    @property
    def fingerprints(self) -> Column:
        """The fingerprint of each."""
        return self._prompts.images["fingerprint"].take(self._images)

    @cached_property
    def models(self) -> list[str]:
        """The model of each."""
        models = [each.request.model for each in self._prompts.settings]
        settings = self._prompts.of_images("settings").take(self._images)
        return [models[index or 0] for index in settings.to_pylist()]

    @property
    def known(self) -> list[Outcome]:
        """The outcomes of those that nothing is to be sent for."""
        return [each.known for each in self._judged.values() if each.known is not None]

    @property
    def retried(self) -> int:
        """How many that are to be sent follow a request that may have been billed."""
        judged = self._judged.values()
        return sum(each.known is None and each.unresolved.count > 0 for each in judged)

    @property
    def places_to_send(self) -> Iterator[int]:
        """The places of those that a request is to be sent for."""
        judged = self._judged
        return (at for at in range(len(self)) if at not in judged or judged[at].known is None)

    @cached_property
    def kinds(self) -> list[tuple[Job, int]]:
        """Of those that are to be sent, one of each kind that costs the same; how many there are.

        Jobs cost the same if they differ in nothing but a prompt of as many bytes.
        """
        sent = pa.array(self.places_to_send, pa.int64())
        images = self._images.take(sent)
        lengths = pc.binary_length(self._prompts.of_images("prompt"))
        settings = self._prompts.of_images("settings")
        table = pa.table(
            {"at": sent, "settings": settings.take(images), "bytes": lengths.take(images)}
        )
        kinds = table.group_by(["settings", "bytes"]).aggregate([("at", "min"), ("at", "count")])
        kinds = kinds.sort_by("at_min")
        firsts: Column = kinds["at_min"]
        rows = self._prompts.wanted(self._images.take(firsts).combine_chunks())
        jobs = map(self._job, firsts.to_pylist(), rows)
        counts: Column = kinds["at_count"]
        return list(zip(jobs, counts.to_pylist(), strict=True))
