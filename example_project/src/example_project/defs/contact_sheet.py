"""What becomes of the pictures: one sheet to look at."""

import base64
import io
from pathlib import Path

import dagster as dg
import pyarrow as pa
from PIL import Image

from dagster_imagegen import ImageGenResource
from example_project.defs.resources import OUTPUT
from example_project.sheet import Picture, draw_contact_sheet

PREVIEW_WIDTH = 640


@dg.asset(
    group_name="shop",
    kinds={"image"},
    deps=["cost_report"],  # So that the lines which tell where all is are the last.
)
def contact_sheet(
    context: dg.AssetExecutionContext, hero: pa.Table, imagegen: ImageGenResource
) -> None:
    """All pictures on one sheet, with names and prices."""
    rows = hero.to_pylist()
    pictured = [row for row in rows if row["image_path"] is not None]
    with imagegen.open_engine() as engine:
        pictures = [
            Picture(
                file=io.BytesIO(engine.read_image(row["image_path"]))
                if row["image_path"]
                else None,
                aspect=(row["image_width"] or 1) / (row["image_height"] or 1),
                caption=[
                    f"{row['name']} {row['product']}",
                    f"{row['colour']} {row['material']}",
                    "" if row["price_eur"] is None else f"EUR {row['price_eur']:,}",
                ],
            )
            for row in rows
        ]
    sheet = draw_contact_sheet(
        pictures,
        title="The catalogue",
        line=f"{len(pictured)} pictures of {len(rows)} products, {_painter(imagegen)}",
    )
    path = Path(OUTPUT, "contact_sheet.png").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    context.add_output_metadata(
        {
            "preview": dg.MetadataValue.md(f"![contact sheet]({_preview(sheet)})"),
            "path": dg.MetadataValue.path(path),
            "pictures": len(pictured),
        }
    )
    context.log.info(_closing_words(context, imagegen, pictures=len(pictured), sheet=path))


def _painter(imagegen: ImageGenResource) -> str:
    return "painted by the sandbox" if imagegen.base_url == "sandbox" else f"by {imagegen.model}"


def _preview(sheet: Image.Image) -> str:
    """A small copy as an address that holds the picture itself, as Dagster's UI shows it."""
    small = sheet.copy()
    small.thumbnail((PREVIEW_WIDTH, PREVIEW_WIDTH * 2))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=45)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _closing_words(
    context: dg.AssetExecutionContext, imagegen: ImageGenResource, *, pictures: int, sheet: Path
) -> str:
    """Where everything lies and what this run cost: the last lines of `dg launch`."""
    event = context.instance.get_latest_materialization_event(dg.AssetKey("hero"))
    made = event.asset_materialization if event and event.run_id == context.run.run_id else None
    cost = made.metadata["imagegen/cost"].value if made else "nothing, no pictures were asked for"
    with imagegen.open_engine() as engine:
        images, usage = f"{engine.storage_uri}/images", engine.usage_uri
    tables = Path(OUTPUT, "tables").absolute()
    return f"""{pictures} pictures.
  images         {images}
  image table    {tables / "hero.parquet"}
  usage table    {usage}
  contact sheet  {sheet}
  cost           {cost}"""
