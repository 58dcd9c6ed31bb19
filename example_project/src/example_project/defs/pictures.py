"""A picture of every product, and the check that there is one."""

import dagster as dg
import pyarrow as pa

from dagster_imagegen import build_image_asset

hero = build_image_asset(
    "hero",
    prompt_table="catalogue",
    prompt="{colour} {material} {product} {setting}, product photograph",
    overrides=["size", "quality", "revision"],
    size="1536x1024",
    quality="low",
    output_format="jpeg",
    group_name="shop",
    owners=["team:catalogue"],
    tags={"cost-center": "4711"},
    description="A picture of every product in the catalogue.",
)


@dg.asset_check(asset=hero, additional_ins={"catalogue": dg.AssetIn("catalogue")})
def every_product_has_a_picture(hero: pa.Table, catalogue: pa.Table) -> dg.AssetCheckResult:
    """No product of the catalogue is without a picture."""
    pictured = {row["sku"] for row in hero.to_pylist() if row["image_path"] is not None}
    missing = [sku for sku in catalogue["sku"].to_pylist() if sku not in pictured]
    return dg.AssetCheckResult(
        passed=not missing,
        metadata={"products": catalogue.num_rows, "without_a_picture": missing},
    )
