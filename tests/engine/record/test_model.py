"""The write protocol under fire: random schedules over the real record, and a guard for each rule.

pytest tests/engine/record/test_model.py                    some hundred schedules
pytest tests/engine/record/test_model.py -m full            5,000
IMAGEGEN_SCHEDULES=500000 pytest tests/engine/record/test_model.py -m full
"""

import gc
import importlib
import itertools
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from dagster_imagegen.engine import record
from tests.engine.record.model import run_schedule

SHORT = 200
SEARCHED = 600
FULL = int(os.environ.get("IMAGEGEN_SCHEDULES", "5000"))
PART = 1_000
PACKAGE = Path(record.__file__).parent

_serial = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def nothing_left_to_close():
    """A client of S3 that an earlier test left closes itself on whatever loop runs at its end."""
    gc.collect()


def test_no_schedule_breaks_a_promise():
    """Two or three writers, deaths, pauses, store errors: one row a request, nothing twice."""
    _expect_no_violation(range(SHORT))


@pytest.mark.full
@pytest.mark.parametrize("start", range(SHORT, SHORT + FULL, PART))
def test_no_schedule_of_many_breaks_a_promise(start: int):
    """The same, over many more schedules."""
    _expect_no_violation(range(start, min(start + PART, SHORT + FULL)))


def _expect_no_violation(seeds: range) -> None:
    for seed in seeds:
        world = run_schedule(seed)
        assert not world.violations, f"schedule {seed}: {world.violations}"


# -- the guard ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """The record with one rule left out, and the seeds that show what the rule is for."""

    rule: str
    was: str
    becomes: str
    seeds: tuple[int, ...] = ()


READ_JOURNALS = """\
            listing = parse_listing((await self._store.list(JOURNAL_FOLDER)).values())
            others = {jid: each for jid, each in listing.items() if jid not in without}
            if new := {jid: each for jid, each in others.items() if jid not in seen}:
                read = await self._journals.read(new)
                # As they are now: those who read on must not change what was read.
                journals |= {jid: content.copy() for jid, content in read.items()}
                seen |= new.keys()
                continue
"""
LIST_PARTS = "            found = await self._list_parts({*seen, *listing})\n"

MUTANTS = [
    Mutant(
        rule="an intent is on record before it is sent",
        was="            journal.add(intent_line(attempt), attempt)\n",
        becomes="",
        seeds=(0, 1),
    ),
    Mutant(
        rule="a refresh follows the intent",
        was="await self._put_pending(journal)\n                    await self._watcher.refresh()",
        becomes="await self._put_pending(journal)\n"
        "                    self._watcher.refreshed_at = _clock()",
        seeds=(2, 3),
    ),
    Mutant(
        rule="rivals are heeded",
        was="return [attempt_id for each in contents for",
        becomes="return [] and [attempt_id for each in contents for",
        seeds=(2, 3),
    ),
    Mutant(
        rule="an object without a label may be about any image",
        was="        return tags is None or tag in tags",
        becomes="        return label is not None and tag in label.tags",
        seeds=(2, 5),
    ),
    Mutant(
        rule="what was learned of such an object are all of its images",
        was='    return None if None in tags else "".join(sorted(str(tag) for tag in tags))',
        becomes="    return None if None in tags else min(map(str, tags), default='')",
        seeds=(70, 79),
    ),
    Mutant(
        rule="a label tells of all images of its object",
        was="        self.tags[tag_of(about.fingerprint)] = None",
        becomes="        self.tags = {tag_of(about.fingerprint): None}",
        seeds=(118, 258),
    ),
    Mutant(
        rule="the older of two writers waits as well",
        was="while rivals := await self._watcher.rivals(fingerprint):",
        becomes="while rivals := [\n"
        "                r\n"
        "                for r in await self._watcher.rivals(fingerprint)\n"
        "                if r < journal.journal_id\n"
        "            ]:",
        seeds=(95, 105),
    ),
    Mutant(
        rule="an image that is there is looked for before sending",
        was="if images := await self._images.find(fingerprint):",
        becomes="if images := {}:",
        seeds=(2, 19),
    ),
    Mutant(
        rule="nothing is granted on a refresh of long ago",
        was="if clock() - self._watcher.refreshed_at <= self._limits.lease / 3:",
        becomes="if True:",
        seeds=(597,),
    ),
    Mutant(
        rule="a writer that gives way says so",
        was="            await self._withdraw(journal, attempt, wait=True)\n",
        becomes="            pass\n",
        seeds=(2, 4),
    ),
    Mutant(
        rule="what was not sent is withdrawn",
        was="            await self._withdraw(journal, attempt, wait=False)\n            raise",
        becomes="            raise",
        seeds=(31, 32),
    ),
    Mutant(
        rule="an outcome is on record before it is reported",
        was="        journal.add(result_line(attempt, result), attempt)\n"
        "        await self._journals.commit()\n",
        becomes="        journal.add(result_line(attempt, result), attempt)\n",
        seeds=(249, 288),
    ),
    Mutant(
        rule="a write that failed is a failure",
        was="self._store.put(begun.path, begun.data))\n"
        "        for failed in await asyncio.gather(*writes, return_exceptions=True):\n"
        "            if failed is not None:\n"
        "                raise failed\n",
        becomes="self._store.once.put(begun.path, begun.data))\n"
        "        await asyncio.gather(*writes, return_exceptions=True)\n",
        seeds=(75, 83),
    ),
    Mutant(
        rule="one's own seal stops a writer",
        was="if found is not None and found.sealed:",
        becomes="if found is not None and found.sealed:\n            return\n        if False:",
        seeds=(139, 144),
    ),
    Mutant(
        rule="an open journal shows signs of life",
        was="if _clock() - journal.last_put_at < self._limits.lease / 4:",
        becomes="if True:",
        seeds=(28, 46),
    ),
    Mutant(
        rule="a journal is published when nothing in it is pending",
        was='if journal.state == "draining" and not journal.content.pending:',
        becomes='if journal.state == "draining":',
        seeds=(2, 3),
    ),
    Mutant(
        rule="all is on record before the last refresh",
        was="            await self._put_pending(journal)\n"
        "            await self._watcher.refresh()\n"
        "            if journal",
        becomes="            await self._watcher.refresh()\n            if journal",
        seeds=(69, 83),
    ),
    Mutant(
        rule="a writer's part exists before its journal is deleted",
        was="            if journal.content.had_intents:\n",
        becomes="            count, labels = journal.next_seq, journal.labels\n"
        "            await delete_journal(self._store, journal.journal_id, count, labels)\n"
        "            if journal.content.had_intents:\n",
        seeds=(2, 3),
    ),
    Mutant(
        rule="a fold seals first",
        was="            await self._store.put(seal_path(jid), seal)\n",
        becomes="            pass\n",
        seeds=(15, 65),
    ),
    Mutant(
        rule="a fold looks for the images",
        was="path = images.get(attempt.attempt_id)",
        becomes="path = None and images",
        seeds=(422,),
    ),
    Mutant(
        rule="a fold's part exists before the journal is deleted",
        was="        if not await has_part(self._store, jid):",
        becomes="        count = max(found.objects, default=-1) + 1\n"
        "        await delete_journal(self._store, jid, count, found.label_paths)\n"
        "        if not await has_part(self._store, jid):",
        seeds=(0, 66),
    ),
    Mutant(
        rule="others are judged by the time of the refresh",
        was="found.newest + self.refreshed_at - own.last_put_at",
        becomes="found.newest + asyncio.get_running_loop().time() - own.last_put_at",
        seeds=(118,),
    ),
    Mutant(
        rule="only the silent are dead",
        was="if silent_for > self._limits.lease:",
        becomes="if silent_for > self._limits.lease / 8:",
        seeds=(3, 4),
    ),
    Mutant(
        rule="a free lock is a dead writer's",
        was="self._store.is_locked(object_path(jid, 0)) is False",
        becomes="self._store.is_locked(object_path(jid, 0)) is not None",
        seeds=(1, 2),
    ),
    Mutant(
        rule="readers read the journals before the parts",
        was=f"{READ_JOURNALS}{LIST_PARTS}",
        becomes=f"            found = await self._list_parts(seen)\n{READ_JOURNALS}",
        seeds=(3486,),
    ),
    Mutant(
        rule="a part stands for its journal",
        was="if jid not in found.paths and jid not in covered and not",
        becomes="if not",
        seeds=(2, 3),
    ),
    Mutant(
        rule="what is reserved is on record",
        was="            await self._commit(target)\n            others",
        becomes="            others",
        seeds=(1, 3),
    ),
    Mutant(
        rule="what others reserve is read once one's own is on record",
        was="            await self._commit(target)\n"
        "            others = await self._reader.read(without=self._journal_ids)\n",
        becomes="            others = await self._reader.read(without=self._journal_ids)\n"
        "            await self._commit(target)\n",
        seeds=(12, 29),
    ),
    Mutant(
        rule="what others reserve counts",
        was="for each in own) - counted) > 0:",
        becomes="for each in own) - counted) > 1_000:",
        seeds=(1, 3),
    ),
    Mutant(
        rule="what settles stays reserved until its part is in place",
        was="        if not journal.pending and journal.unwritten is None:\n"
        "            if _clock()",
        becomes="        if journal.state == 'open':\n"
        "            older = [each for each in self._journals.values() if each.state != 'open']\n"
        "            all_ = [a for each in older for a in each.content.attempts.values()]\n"
        "            less = sum((a.bound_usd for a in all_ if a.result), Decimal(0))\n"
        "            journal.reserve(max(self._reserved_usd - less, Decimal(0)))\n"
        "        if not journal.pending and journal.unwritten is None:\n"
        "            if _clock()",
        seeds=(360, 431),
    ),
    Mutant(
        rule="no more is granted than there is",
        was="            if target <= free:\n",
        becomes="            if True:\n",
        seeds=(1, 3),
    ),
    Mutant(
        rule="a new journal begins with what is reserved",
        was="{reserve_line(reserved)}\\n",
        becomes="",
        seeds=(7, 16),
    ),
    Mutant(
        rule="what moves to a new journal while the record is read is found there",
        was="                continue\n            found = await",
        becomes="            found = await",
        seeds=(1099,),
    ),
    Mutant(
        rule="what moves to a new journal when one is published is found there",
        was="        if published <= before:\n",
        becomes="        if True:\n",
        seeds=(4489,),
    ),
    Mutant(
        rule="of two runs of the index that cover the same part one counts",
        was="if covered.isdisjoint(run.journals):",
        becomes="if True:",
        seeds=(30, 39),
    ),
    Mutant(
        rule="a day needs no listing only once it is over",
        was="    return day < (at - timedelta(days=SETTLED_DAYS)).date().isoformat()",
        becomes="    return True",
        seeds=(2, 6),
    ),
    Mutant(
        rule="a part that comes late is announced",
        was="        if is_late(journal.journal_id, max(times)):",
        becomes="        if False:",
        seeds=(57, 65),
    ),
    Mutant(
        rule="a part that was announced is looked for",
        was="for jid in seen\n            if",
        becomes="for jid in ()\n            if",
        seeds=(57, 65),
    ),
]


# Left out, because next to no schedule misses them:
# - the refresh right before a part: each commit before it had one;
# - one commit or publication at a time: it keeps strays away, which are swept later;
# - the index is read before the parts, and what was read of a journal does not change meanwhile: a
#   part would have to be published and indexed, or a reservation to move, within one listing;
# - a rival's silence and our clock are of the same refresh: 1 schedule in 10,000 or so;
# and held by tests of the index: a day needs no listing only where all its parts are covered; a
# journal that is there may still get a part; what the index covers is in no journal; a start
# deletes no journal without a part;
# and by tests of single writers: a closed writer grants nothing; what was folded is done with;
# a fold looks for the part; a journal without a header, or one that is being deleted, has no rows;
# of passes that have rolled the older one is known by its first journal; a pass is no rival of its
# own budget; whatever is read of it, it counts no less than what it may spend, and no more once its
# parts are in place; all parts are there at the end;
# a part without rows stands for what was withdrawn; a listing without one's own journal is taken
# again; the old journal lets go of a reservation only when the new one is in place, and what it
# may settle for less stays reserved; a reservation waits for a journal that begins;
# and by tests of many writers: an object that could not be written is written again as it was, with
# the same label; what is being read of others is not forgotten meanwhile.


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_every_rule_is_needed(mutant: Mutant):
    """With one rule of the protocol left out, some schedule breaks a promise."""
    with _without_the_rule(mutant) as code:
        # Other seeds only when the code has changed, and these no longer show it.
        assert any(_breaks(seed, code) for seed in (*mutant.seeds, *range(SEARCHED))), (
            f"no schedule misses the rule {mutant.rule!r}; is it needed? To look for more: "
            "IMAGEGEN_SCHEDULES=5000 python -m tests.engine.record.test_model"
        )


@contextmanager
def _without_the_rule(mutant: Mutant) -> Generator[ModuleType]:
    """A copy of the record's package in which one place of one file is changed."""
    sources = {path.name: path.read_text() for path in PACKAGE.glob("*.py")}
    places = [name for name, source in sources.items() for _ in range(source.count(mutant.was))]
    assert len(places) == 1, f"{mutant.rule}: `was` is in {places}; the code has changed: change it"
    name = f"record_{next(_serial)}"
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / name).mkdir()
        for file, source in sources.items():
            changed = source.replace(mutant.was, mutant.becomes)
            copy = changed.replace(f"{record.__name__}.", f"{name}.")
            (Path(folder) / name / file).write_text(f"import contextlib\n{copy}")
        patch.syspath_prepend(folder)
        yield importlib.import_module(name)


def _breaks(seed: int, code: ModuleType) -> bool:
    try:
        return bool(run_schedule(seed, code).violations)
    except Exception:  # noqa: BLE001  # a mutant may also stumble over itself
        return True


def _find_seeds() -> None:
    """Print, for each mutant, the first schedules that catch it, and the rules that they break."""
    limit = int(os.environ.get("IMAGEGEN_SCHEDULES", "3000"))
    for mutant in MUTANTS:
        if len(sys.argv) > 1 and not any(word in mutant.rule for word in sys.argv[1:]):
            continue
        with _without_the_rule(mutant) as code:
            found: list[int] = []
            why = ""
            for seed in range(limit):
                if _breaks(seed, code) and not _breaks(seed, record):
                    found.append(seed)
                    try:
                        why = why or str(run_schedule(seed, code).violations)[:150]
                    except Exception as error:  # noqa: BLE001  # shown
                        why = why or repr(error)
                if len(found) == 2:
                    break
            print(f"{mutant.rule}: {tuple(found)} {why}", flush=True)  # noqa: T201  # a command


if __name__ == "__main__":
    _find_seeds()
