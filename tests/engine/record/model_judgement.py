"""What became of a world: each promise, held against parts, images and requests."""

from dagster_imagegen.engine.attempt import Attempt
from dagster_imagegen.engine.errors import StoreInconsistent
from dagster_imagegen.engine.record.index import INDEX_FOLDER
from dagster_imagegen.engine.record.parts import PARTS_FOLDER
from tests.engine.record.model_world import Post, World, image_of


def judge(world: World) -> None:
    rows = [
        row
        for path in world.objects
        if path.startswith(PARTS_FOLDER)
        for row in world.rows_of(path)
    ]
    _judge_rows(world, rows)
    _judge_recovery(world, rows)
    _judge_index(world, rows)
    _judge_money(world)
    for path in world.objects:
        kept = ("images/", f"{PARTS_FOLDER}/", f"{INDEX_FOLDER}/")
        if not (path.startswith(kept) or path.endswith(".sealed")):
            world.break_rule("litter", path)
    for handle in world.writers:
        for path in handle.reported:
            _judge_image(world, path, f"reported by {handle.name}")
        if isinstance(handle.error, StoreInconsistent):
            world.break_rule("refused", f"{handle.name} blames the store: {handle.error!r}")
        if handle.error is not None and not (
            handle.presumed_dead or world.moods.error or handle.killed_at is not None
        ):
            world.break_rule("refused", f"{handle.name}: {handle.error!r}")


def _judge_rows(world: World, rows: list[Attempt]) -> None:
    by_attempt = {row.attempt_id: row for row in rows}
    posts = {post.attempt_id for post in world.posts}
    if len(by_attempt) != len(rows):
        world.break_rule("row", "an attempt has two rows")
    if len(posts) != len(world.posts):
        world.break_rule("row", "an attempt was sent twice")
    for attempt_id in posts - by_attempt.keys():
        world.break_rule("row", f"{attempt_id} was sent and has none")
    for attempt_id, row in by_attempt.items():
        jid = attempt_id.rpartition("-")[0]
        owner = world.owner(jid)
        excused = owner is not None and owner.may_leave_phantoms
        if attempt_id not in posts and (row.status != "unknown" or not excused):
            world.break_rule("phantom", f"{attempt_id} is {row.status} and was never sent")
        if row.status == "succeeded":
            assert row.result is not None
            assert row.result.image is not None
            _judge_image(world, row.result.image.path, f"of row {attempt_id}")
    for handle in world.writers:
        for attempt_id, status in handle.settled.items():
            row = by_attempt.get(attempt_id)
            recorded = None if row is None else row.status
            if recorded != status:
                world.break_rule("settled", f"{attempt_id} as {status}, recorded as {recorded}")


def _judge_index(world: World, rows: list[Attempt]) -> None:
    """As the last writer has read it, when nothing was written any more."""
    found = world.last_record
    assert found is not None
    indexed = world.indexed_rows(found)
    if indexed is None:
        return
    covered = found.index.covered - found.gone
    said = sorted((row.attempt_id, row.fingerprint, row.status) for row in indexed)
    parts = (row for row in rows if row.attempt_id.rpartition("-")[0] in covered)
    held = sorted((row.attempt_id, row.fingerprint, row.status) for row in parts)
    if said != held:
        world.break_rule("index", f"says {said} of {held}")


def _judge_recovery(world: World, rows: list[Attempt]) -> None:
    status_of = {row.attempt_id: row.status for row in rows}
    for attempt_id, at in (each for images in world.images.values() for each in images):
        owner = world.owner(attempt_id.rpartition("-")[0])
        if owner is None or owner.presumed_dead or owner.killed_at is None:
            continue
        if at < owner.killed_at and status_of.get(attempt_id) != "succeeded":
            world.break_rule("recovered", f"{attempt_id} is {status_of.get(attempt_id)}")


def _judge_image(world: World, path: str, whose: str) -> None:
    data, _ = world.objects.get(path, (None, None))
    if data != image_of(path.rpartition("/")[2]):
        world.break_rule("image", f"{path} {whose} is {data!r}")


def _judge_money(world: World) -> None:
    for later in world.posts:
        for attempt_id, placed_at in world.images.get(later.fingerprint, []):
            if placed_at < later.intended_at:
                world.break_rule("bought", f"{later.attempt_id}, though {attempt_id} was there")
        for earlier in world.posts:
            if earlier is later or earlier.writer.presumed_dead or later.writer.presumed_dead:
                continue
            if earlier.fingerprint != later.fingerprint:
                continue
            if earlier.at <= later.at < _busy_until(world, earlier):
                world.break_rule("twice", f"{later.attempt_id} beside {earlier.attempt_id}")


def _busy_until(world: World, post: Post) -> float:
    """When others may ask again: its image is in place, it came to nothing, or its writer died."""
    placed = [at for each, at in world.images.get(post.fingerprint, []) if each == post.attempt_id]
    end = max(post.ended_at, min(placed, default=post.ended_at))
    return min(end, post.writer.killed_at or end)
