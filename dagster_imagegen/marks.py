"""Whether published copies of images still carry the marks of origin that the images carry."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dagster_imagegen.engine.provenance import marks_of

THREADS = 4
"""Each holds two images."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A stored image by its path, and the address of its published copy."""

    path: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Whether the stored image has marks, and what the copy lacks of them."""

    has_marks: bool
    problem: str | None = None


def compare_marks(
    copies: Sequence[Copy],
    read_image: Callable[[str], bytes],
    read_published: Callable[[str], bytes],
) -> list[Compared]:
    """Read images and their copies, a few at a time; bytes are not altered.

    Raises what reading does, but for the `FileNotFoundError` of what is not there.
    """

    def compare(copy: Copy) -> Compared:
        try:
            marks = marks_of(read_image(copy.path))
        except FileNotFoundError:
            return Compared(has_marks=False, problem="is not in storage")
        try:
            kept = marks_of(read_published(copy.address))
        except FileNotFoundError:
            return Compared(has_marks=bool(marks), problem="its published copy is not there")
        if lost := sorted(marks - kept):
            return Compared(has_marks=True, problem=f"its published copy lacks {', '.join(lost)}")
        return Compared(has_marks=bool(marks))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="imagegen-marks") as pool:
        return list(pool.map(compare, copies))
