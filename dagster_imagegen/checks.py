"""`build_image_checks`: asset checks of an image asset's table, images and spending."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, TypeAlias, cast, get_args

import dagster as dg
import pyarrow as pa

from dagster_imagegen.calls import AssetKeyLike
from dagster_imagegen.check_results import CheckName, ImageChecks, Limits, Row, Window
from dagster_imagegen.engine.errors import ConfigurationError, did_you_mean
from dagster_imagegen.engine.image_table import OUR_COLUMNS, PUBLISHED_URI
from dagster_imagegen.inspection import LOOK_BITS
from dagster_imagegen.resource import resource_of

CheckedAsset: TypeAlias = AssetKeyLike | dg.AssetsDefinition | dg.AssetSpec

DESCRIPTIONS: dict[CheckName, str] = {
    "images_complete": "Every row of the image table has an image, unless its prompt was refused.",
    "images_intact": "Every image is in storage, with the bytes that were recorded, can be "
    "decoded, and has the size that was requested.",
    "images_large_enough": "No image is smaller than the least width and height.",
    "images_distinct": "No image looks like another one.",
    "provenance_published": "The published copy of every image carries the marks of origin that "
    "the image carries: content credentials (C2PA) and IPTC's digital source type.",
    "spending_known": "The cost of every request is known, and whether it was billed.",
    "spending_within_limit": "What was charged at most is within the limit.",
}
NEEDS: dict[CheckName, set[str]] = {
    "images_large_enough": {"min_width", "min_height"},
    "images_distinct": {"near_duplicates"},
    "provenance_published": {"published"},
    "spending_within_limit": {"max_usd"},
}
"""The limits of which one makes the check."""

IMAGE_COLUMNS = (
    "prompt_id",
    "prompt",
    "image_variant",
    "image_status",
    "image_uri",
    "image_path",
    "image_sha256",
    "image_size_bytes",
    "image_format",
    "image_width",
    "image_height",
    "image_error_code",
    "image_attempt_id",
)
DISTANCE_MAX = LOOK_BITS // 4


def build_image_checks(
    asset: CheckedAsset,
    *,
    checks: Sequence[CheckName] | None = None,
    sample: int | None = None,
    min_width: int | None = None,
    min_height: int | None = None,
    near_duplicates: int | None = None,
    published: bool | None = None,
    max_usd: float | Decimal | None = None,
    per: Window = "month",
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    blocking: bool = False,
    resource_key: str = "imagegen",
    partitions_def: "dg.PartitionsDefinition[Any] | None" = None,
) -> list[dg.AssetChecksDefinition]:
    """Make asset checks of an image asset: its table, its images, and what they have cost.

        dg.Definitions(
            assets=[hero],
            asset_checks=build_image_checks(hero, min_width=1024, max_usd=25),
            resources={"imagegen": ImageGenResource(...)},
        )

    They read the asset's value, its images and the usage table, and send nothing. Each result
    names the first rows with a problem and shows their pictures.

    `images_complete`, `images_intact` and `spending_known` are always there; a limit adds its own
    check. To give some another severity, or to make only some blocking, call it twice
    with different `checks`.

    Args:
        asset: The image asset, by key or definition.
        checks: The names of the checks to make, instead of all that the limits allow.
        sample: How many images `images_intact`, `images_distinct` and `provenance_published` read,
            chosen anew in each run; by default all.
        min_width: The least width in pixels, for `images_large_enough`.
        min_height: The least height.
        near_duplicates: For `images_distinct`: in how many of 192 bits of their perceptual hashes
            two images may differ and count as alike, e.g. 10.
        published: True for `provenance_published`, which reads the published copies of the images
            that the asset publishes.
        max_usd: The most that the asset's requests may have cost, for `spending_within_limit`.
            Each counts at the most that may have been charged; one of unknown cost fails the check.
        per: Whose spending counts for both checks of it: the requests of this `day` or `month`
            (UTC), or of `all` time.
        severity: Of a failed check.
        blocking: Whether a failed check keeps downstream assets from running.
        resource_key: The key of the `ImageGenResource` that made the images.
        partitions_def: That of the asset. Each check then sees the partition of its run; without
            it, all partitions, which must all be stored. Dagster 1.13 has this as a preview, and
            warns of it.

    Raises:
        ConfigurationError: At definition time, for an argument that cannot work.
    """
    key = _key(asset)
    limits = {
        "sample": _whole("sample", sample),
        "min_width": _whole("min_width", min_width),
        "min_height": _whole("min_height", min_height),
        "near_duplicates": _whole("near_duplicates", near_duplicates, least=0, most=DISTANCE_MAX),
        "published": published or None,
        "max_usd": _usd(max_usd),
        "per": _window(per),
    }
    given: dict[str, Any] = {name: each for name, each in limits.items() if each is not None}
    # Older releases of Dagster do not have it.
    more: dict[str, Any] = {} if partitions_def is None else {"partitions_def": partitions_def}
    specs = [
        dg.AssetCheckSpec(
            name, asset=key, description=DESCRIPTIONS[name], blocking=blocking, **more
        )
        for name in _names(checks, given)
    ]
    return [_definition(key, specs, Limits(**given), severity, resource_key)]


def _definition(
    key: dg.AssetKey,
    specs: Sequence[dg.AssetCheckSpec],
    limits: Limits,
    severity: dg.AssetCheckSeverity,
    resource_key: str,
) -> dg.AssetChecksDefinition:
    """One step for all of them, so that the table and the images are read once."""
    # Names of steps are unique, and two calls for one asset have no check in common.
    name = f"{key.to_python_identifier()}_{specs[0].name}"
    if len(specs) > 1:
        name += f"_and_{len(specs) - 1}_more"
    partitioned = any(getattr(spec, "partitions_def", None) for spec in specs)

    @dg.multi_asset_check(
        name=name,
        specs=specs,
        ins={"images": dg.AssetIn(key)},
        can_subset=True,
        required_resource_keys={resource_key},
    )
    def image_checks(
        context: dg.AssetCheckExecutionContext, images: Any
    ) -> Iterator[dg.AssetCheckResult]:
        imagegen = resource_of(context, resource_key)
        selected = sorted(context.selected_asset_check_keys, key=lambda each: each.name)
        # The asset can be renamed after its checks were defined.
        asset_key = selected[0].asset_key.to_user_string()
        with imagegen.open_engine() as engine:
            rows = _image_rows(images, asset_key, show_values=engine.settings.record_prompts)
            found = ImageChecks(
                rows,
                engine,
                asset_key=asset_key,
                partitions=list(context.partition_keys) if partitioned else None,
                limits=limits,
                seed=context.run.run_id,
                now=datetime.now(timezone.utc),
            )
            for each in selected:
                yield found.run(cast("CheckName", each.name), severity=severity)

    return image_checks


# -- the image table -------------------------------------------------------------------------------


def _image_rows(value: object, name: str, *, show_values: bool) -> Sequence[Row]:
    """The rows of an image table of any library, or of several partitions by key.

    Raises `ConfigurationError` for what is none. Without `show_values` it shows nothing of what is
    in the table.
    """
    if isinstance(value, Mapping):
        return [
            row
            for table in value.values()
            for row in _image_rows(table, name, show_values=show_values)
        ]
    must = (
        f"{name}: its value must be an image table, or a dict of those by partition, to be "
        f"checked, got {type(value).__qualname__}"
    )
    try:
        return _image_table(value).to_pylist()
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        if show_values:
            raise ConfigurationError(f"{must}: {error}") from error
    # Outside of the block: the first error, which may repeat a prompt, must not come along.
    raise ConfigurationError(
        f"{must}; what is wrong with it is not shown, because record_prompts is off"
    )


def _image_table(value: Any) -> pa.Table:
    table = pa.table(value)
    if PUBLISHED_URI.name not in table.column_names:  # Of an asset that does not publish.
        table = table.append_column(PUBLISHED_URI, pa.nulls(table.num_rows, pa.string()))
    table = table.select([*IMAGE_COLUMNS, PUBLISHED_URI.name])
    return table.cast(
        pa.schema([*(OUR_COLUMNS.field(each) for each in IMAGE_COLUMNS), PUBLISHED_URI])
    )


# -- arguments -------------------------------------------------------------------------------------


def _key(asset: CheckedAsset) -> dg.AssetKey:
    if isinstance(asset, dg.AssetsDefinition | dg.AssetSpec):
        return asset.key
    return asset if isinstance(asset, dg.AssetKey) else dg.AssetKey(asset)


def _names(checks: Sequence[CheckName] | None, given: Collection[str]) -> list[CheckName]:
    """The checks to make, of those that the given limits allow."""
    there: list[CheckName] = [
        name for name in DESCRIPTIONS if name not in NEEDS or NEEDS[name] & {*given}
    ]
    if checks is None:
        return there
    if isinstance(checks, str) or not checks:
        raise ConfigurationError(
            f'checks must be a list of names, got {checks!r}; e.g. checks=["images_complete"]'
        )
    for name in checks:
        if name not in DESCRIPTIONS:
            raise ConfigurationError(
                f'checks: "{name}" is not a check' + did_you_mean(name, DESCRIPTIONS)
            )
        if name not in there:
            raise ConfigurationError(
                f'checks: "{name}" needs a limit; set {" or ".join(sorted(NEEDS[name]))}'
            )
    return list(dict.fromkeys(checks))


def _whole(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int | None:
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        rule = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigurationError(f"{name} must be a whole number, {rule}, got {value!r}")
    return value


def _usd(value: float | Decimal | None) -> Decimal | None:
    if value is None:
        return None
    try:
        usd = Decimal(str(value))
    except ArithmeticError:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd < 0:
        raise ConfigurationError(f"max_usd must be a number, at least 0, got {value!r}")
    return usd


def _window(value: str) -> str:
    if value not in get_args(Window):
        raise ConfigurationError(f"per must be day, month or all, got {value!r}")
    return value
