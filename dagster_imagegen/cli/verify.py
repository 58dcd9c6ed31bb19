"""`verify`: the storage against its record; with `--repair`, repairs it."""

from collections.abc import Callable

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import StorageChoice, open_engine, storage_options
from dagster_imagegen.cli.output import Report, Table, json_option, show
from dagster_imagegen.cli.progress import counting
from dagster_imagegen.engine.verification import Finding, Verified


@click.command()
@storage_options
@click.option("--repair", is_flag=True, help="Repair what is found, as far as nothing is bought.")
@click.option("--quick", is_flag=True, help="Compare the sizes of images without reading them.")
@click.option(
    "--published",
    is_flag=True,
    help="Also compare the published copies of images, wherever they are; they are not repaired.",
)
@json_option
def command(
    *, storage: StorageChoice, repair: bool, quick: bool, published: bool, as_json: bool
) -> int:
    """Compare all images and records of a storage with each other.

    Finds missing, orphaned, spilled and damaged images, abandoned and torn journals, damaged and
    misplaced parts, stale temporaries and foreign files. Without --repair it changes nothing.
    With --published it also finds published copies that are missing, have changed, or lack the
    marks of origin (content credentials, IPTC) that their images carry.

    \b
    Examples:
      dagster-imagegen verify --storage s3://shop/imagegen
      dagster-imagegen verify --storage /data/imagegen --repair --json
    """
    if repair and published:
        raise click.UsageError("--published goes without --repair: copies are not repaired")
    engine = open_engine(storage)
    with counting("reading images") as on_read:
        if not repair:
            found = engine.upkeep.verify(reads_images=not quick, copies=published, on_read=on_read)
            return _tell(found, as_json=as_json)
        before, after = engine.upkeep.repair(reads_images=not quick, on_read=on_read)
    return _tell(before, after, as_json=as_json)


def _tell(before: Verified, after: Verified | None = None, *, as_json: bool) -> int:
    now = after or before
    left = {(each.kind, each.path) for each in now.findings}
    findings = list(before.findings)
    known = {(each.kind, each.path) for each in findings}
    findings += [each for each in now.findings if (each.kind, each.path) not in known]
    facts: dict[str, object] = {
        "images": now.images,
        "images_read": before.images_read,
        "requests_on_record": now.rows,
        "parts": now.parts,
        "open_journals": now.open_journals,
        "published_copies": now.copies,
        "found": len(before.findings),
    }
    if after is not None:
        facts["repaired"] = sum((each.kind, each.path) not in left for each in findings)
    state = _state_of(left, repaired=after is not None)
    table = Table(
        name="findings",
        columns=("kind", "path", "detail", "state"),
        rows=[(each.kind, each.path, each.detail, state(each)) for each in findings],
    )
    show(Report(facts=facts, tables=[table]), as_json=as_json)
    return exit_codes.FINDINGS if now.harm else exit_codes.FINE


def _state_of(left: set[tuple[str, str]], *, repaired: bool) -> Callable[[Finding], str]:
    def state(finding: Finding) -> str:
        if not repaired or (finding.kind, finding.path) in left:
            return finding.remedy
        return "repaired"

    return state
