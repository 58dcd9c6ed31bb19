"""Which failures of a store are repeated, and for how long."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dagster_imagegen.engine.errors import StorageError
from dagster_imagegen.engine.patience import Patience, PatientStore
from dagster_imagegen.engine.storage import Storage
from tests.virtual_time import run_virtual

QUICK = Patience(attempts=2, backoff_seconds=0.001)


def fails(times: int, cause: OSError) -> Callable[[], Awaitable[int]]:
    """A call that fails so often, then returns how often it was made."""
    made = 0

    async def call() -> int:
        nonlocal made
        made += 1
        if made <= times:
            raise StorageError(f"cannot write: {cause}") from cause
        return made

    return call


def repeated(call: Callable[[], Awaitable[int]], patience: Patience, folder: Path) -> int:
    return asyncio.run(PatientStore(Storage(str(folder)), patience).repeat(call))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_files_that_run_out_count_as_no_attempts(tmp_path: Path, number: int) -> None:
    """Far more failures than there are attempts, and the call is made all the same."""
    assert repeated(fails(9, OSError(number, "too many")), QUICK, tmp_path) == 10


def test_files_that_run_out_are_waited_for_for_a_time(tmp_path: Path) -> None:
    """After `scarce_seconds` of waits they count like any other failure."""
    patience = Patience(attempts=2, backoff_seconds=0.001, scarce_seconds=0.0025)
    too_many = OSError(errno.EMFILE, "too many")
    with pytest.raises(StorageError):
        repeated(fails(5, too_many), patience, tmp_path)  # 3 that do not count, then 2 attempts
    assert repeated(fails(4, too_many), patience, tmp_path) == 5


def test_other_failures_count(tmp_path: Path) -> None:
    """As many calls as there are attempts, and no more."""
    with pytest.raises(StorageError):
        repeated(fails(2, OSError(errno.EIO, "broken")), QUICK, tmp_path)
    assert repeated(fails(1, OSError(errno.EIO, "broken")), QUICK, tmp_path) == 2


def test_a_process_that_was_suspended_in_a_call_tries_again(tmp_path: Path) -> None:
    """Its patience has ended meanwhile, and so may the outage have."""
    fails_once = fails(1, OSError(errno.EIO, "away"))

    async def suspended() -> int:
        await asyncio.sleep(1000)
        return await fails_once()

    store = PatientStore(Storage(str(tmp_path)), Patience(attempts=1, seconds=50.0))
    assert run_virtual(store.repeat(suspended)) == 2
