"""Whether an image has to be requested, by what is on record about it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from dagster_imagegen.engine.attempt import IMAGE_MISSING, Attempt, Outcome
from dagster_imagegen.engine.request import ImageRequest

Redo: TypeAlias = Literal["refused", "unknown", "missing"]
"""What a run requests again although its outcome is final."""

RESENDS_MAX = 2
"""How many requests follow one whose billing is unknown, in all later runs together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unresolved:
    """The requests for one image that may have been billed and left no image.

    `count` is how many there are; `settles` whether this run is to settle them, because an earlier
    run left them, or because it is configured to. This is the one place that limits what runs
    resend by themselves; `retry.resend_unknown` allows more within a run.
    """

    count: int = 0
    settles: bool = False

    @property
    def may_resend(self) -> bool:
        """Whether one more request may follow."""
        return self.settles and self.count <= RESENDS_MAX

    def one_more(self, *, of_another_run: bool = False) -> "Unresolved":
        """The same after another request that may have been billed and left no image."""
        return replace(self, count=self.count + 1, settles=self.settles or of_another_run)


NONE_UNRESOLVED = Unresolved()
"""Of most images; one object for all of them."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`known` is the outcome that is on record; None: the image has to be requested.

    `tried` is then what came of the latest request for it in this run, retries included.
    """

    known: Outcome | None = None
    tried: Outcome | None = None
    unresolved: Unresolved = NONE_UNRESOLVED


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judges images for one run. `gone` are the paths of stored images that are missing now."""

    root_run_id: str
    redo: Collection[Redo]
    resend_unknown: bool
    gone: Collection[str]

    def verdict(self, request: ImageRequest, attempts: Sequence[Attempt]) -> Verdict:
        """The verdict on a request, given all attempts at it on record, oldest first."""
        made = successes(attempts)
        unresolved = NONE_UNRESOLVED if made else self._unresolved(attempts)
        if made:
            # The oldest that is there, so that every reader names the same image.
            there = next((each for each in made if _path(each) not in self.gone), None)
            if there is not None:
                return Verdict(known=Outcome.of(there, reused=True))
            if "missing" not in self.redo:
                return Verdict(known=_missing(made[0]))
            # It is requested again: only what came of that in this run counts, retries included.
            attempts = [each for each in attempts if self._is_of_this_run(each)]
            attempts = [each for each in attempts if each.status != "succeeded"]
        refusal = _refusal(request, attempts)
        if refusal is not None and not self._again("refused", [refusal]):
            return Verdict(known=Outcome.of(refusal), unresolved=unresolved)
        left = left_unresolved(attempts)
        if left and not self._again("unknown", left) and not self._unresolved(attempts).may_resend:
            known = Outcome.of(left[-1])
            return Verdict(known=replace(known, status="unknown"), unresolved=unresolved)
        return Verdict(unresolved=unresolved, tried=self._tried(attempts))

    def _tried(self, attempts: Sequence[Attempt]) -> Outcome | None:
        mine = (each for each in reversed(attempts) if self._is_of_this_run(each))
        latest = next((each for each in mine if each.result is not None), None)
        return latest and Outcome.of(latest)

    def _unresolved(self, attempts: Sequence[Attempt]) -> Unresolved:
        left = left_unresolved(attempts)
        if not left:
            return NONE_UNRESOLVED
        settles = self.resend_unknown or not self._is_of_this_run(left[0])
        return Unresolved(count=len(left), settles=settles)

    def _again(self, kind: Redo, attempts: Sequence[Attempt]) -> bool:
        """Whether `redo` asks for it again: once in a run, its retries included."""
        return kind in self.redo and not any(self._is_of_this_run(each) for each in attempts)

    def _is_of_this_run(self, attempt: Attempt) -> bool:
        return attempt.identity.root_run_id == self.root_run_id


def successes(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that brought an image."""
    return [each for each in attempts if each.status == "succeeded"]


def left_unresolved(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts that may have been billed, where none brought an image."""
    if successes(attempts):
        return []
    return [each for each in attempts if each.may_be_billed_without_image]


def _path(attempt: Attempt) -> str | None:
    return None if attempt.image is None else attempt.image.path


def _refusal(request: ImageRequest, attempts: Sequence[Attempt]) -> Attempt | None:
    """A refusal that still holds: at the same moderation level, or at the lower one."""
    levels = {request.moderation or "auto", "low"}
    return next(
        (
            each
            for each in reversed(attempts)
            if each.status == "refused"
            and (each.request.parameters.get("moderation") or "auto") in levels
        ),
        None,
    )


def _missing(made: Attempt) -> Outcome:
    message = (
        f"the image was paid for and is no longer at {_path(made)}; restore it, bump the row's "
        "revision to buy another, or let a run redo what is missing"
    )
    return Outcome(
        fingerprint=made.fingerprint,
        status="failed",
        attempt=made,
        error_code=IMAGE_MISSING,
        error_message=message,
    )
