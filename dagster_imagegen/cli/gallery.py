"""`gallery`: a page in the storage that shows its images."""

import click

from dagster_imagegen.cli import exit_codes
from dagster_imagegen.cli.options import StorageChoice, open_engine, storage_options
from dagster_imagegen.cli.output import Report, json_option, show
from dagster_imagegen.cli.progress import counting
from dagster_imagegen.gallery import build_gallery
from dagster_imagegen.gallery.building import MAX_ENTRIES


@click.command()
@storage_options
@click.option("--asset", metavar="KEY", help="Show one asset's images, e.g. shop/hero.")
@click.option(
    "--hide-record/--show-record",
    default=None,
    help="Leave prompts, costs and the texts of errors out, or show them. One of the two must be "
    "said with --usage; otherwise they are shown.",
)
@click.option(
    "--max-entries",
    type=click.IntRange(min=1),
    default=MAX_ENTRIES,
    show_default=True,
    help="Show the newest so many.",
)
@json_option
def command(
    *,
    storage: StorageChoice,
    asset: str | None,
    hide_record: bool | None,
    max_entries: int,
    as_json: bool,
) -> int:
    """Write a static page into gallery/ of the storage that shows all images that were requested.

    It opens from disk and from the store's address. Thumbnails that are there are kept.

    \b
    Examples:
      dagster-imagegen gallery --storage /data/imagegen
      dagster-imagegen gallery --storage s3://shop/imagegen --asset shop/hero
    """
    engine = open_engine(storage)
    with counting("thumbnails") as on_progress:
        built = build_gallery(
            engine,
            asset_key=asset,
            hide_record=hide_record,
            max_entries=max_entries,
            on_progress=on_progress,
        )
    show(Report(facts=vars(built)), as_json=as_json)
    return exit_codes.FINE
