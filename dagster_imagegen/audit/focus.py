"""The usage table in the FinOps Open Cost and Usage Specification (FOCUS), version 1.2.

The rows are what this package has on record, not the provider's bill: `x_IsEstimate` marks those
whose cost the endpoint did not report itself. Every column that FOCUS 1.2 always requires is there.
Those that it requires of providers with a price list and that only they can fill (ListUnitPrice,
ContractedUnitPrice, SkuPriceId, SkuPriceDetails, SkuMeter) are left out, so the file is not fully
conformant.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.table_files import check_target, write_batches
from dagster_imagegen.engine.attempt import SANDBOX
from dagster_imagegen.engine.record.schema import MONEY, TIME

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # loads pandas, if it is there

FOCUS_VERSION = "1.2"
GENERATOR = "dagster_imagegen"
CREATED_ON = "2026-11-26T00:00:00Z"
"""When `FOCUS_SCHEMA` was last changed, which FOCUS's metadata has to say."""
UNKNOWN = "unknown"

_COSTS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
_CUSTOM: Mapping[str, str] = {
    "x_AttemptId": "attempt_id",
    "x_RunId": "run_id",
    "x_AssetKey": "asset_key",
    "x_PartitionKey": "partition_key",
    "x_PromptId": "prompt_id",
    "x_Attempt": "attempt",
    "x_Status": "status",
    "x_Billing": "billing",
    "x_CostBasis": "cost_basis",
    "x_StartedAt": "started_at",
    "x_CostUsdMax": "cost_usd_max",
    "x_InputTokens": "input_tokens",
    "x_OutputTokens": "output_tokens",
}
"""Our own columns, by the column of the usage table that they come from."""

_READ = (*_CUSTOM.values(), "endpoint_id", "model", "size", "quality", "cost_usd")
_TEXT = (
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ConsumedUnit",
    "InvoiceIssuerName",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
)
_TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys((*_COSTS, "ConsumedQuantity", "PricingQuantity"), MONEY),
    **dict.fromkeys(_TEXT, pa.string()),
    **dict.fromkeys(_TIMES, TIME),
    **dict.fromkeys(_CUSTOM, pa.string()),
    "x_Attempt": pa.int32(),
    "x_StartedAt": TIME,
    "x_CostUsdMax": MONEY,
    "x_InputTokens": pa.int64(),
    "x_OutputTokens": pa.int64(),
    "x_IsEstimate": pa.bool_(),
}

FOCUS_SCHEMA: pa.Schema = pa.schema(
    [(name, _TYPES[name]) for name in sorted(_TYPES)],
    metadata={"FocusVersion": FOCUS_VERSION, "DataGenerator": GENERATOR},
)


@dataclass(frozen=True, kw_only=True)
class Biller:
    """Who bills, where the endpoint's host does not say it: the name of the provider, and the
    account that receives the invoice."""

    provider: str | None = None
    account_id: str | None = None
    account_name: str | None = None


def focus_batches(
    usage: "ds.Dataset", *, biller: Biller | None = None, where: pc.Expression | None = None
) -> Iterator[pa.RecordBatch]:
    """Each request of the usage table as one row of `FOCUS_SCHEMA`, a batch at a time.

    Requests to the sandbox are left out. A cost that is not known is 0, because FOCUS allows no
    null there: `x_CostBasis` is then `unknown`, and `x_CostUsdMax` null. A request of unknown
    billing is charged as recorded, at its worst case, with its bound in `x_CostUsdMax`. The charge
    period is the UTC day on which a request was put on record, the billing period its month.
    """
    of_money = _not_sandbox() if where is None else _not_sandbox() & where
    for batch in usage.to_batches(columns=list(_READ), filter=of_money):
        rows = [_charge(row, biller or Biller()) for row in batch.to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, schema=FOCUS_SCHEMA)


def write_focus(
    usage: "ds.Dataset",
    path: str | Path,
    *,
    biller: Biller | None = None,
    where: pc.Expression | None = None,
) -> int:
    """Write a `.csv` or `.parquet` file, and beside it its metadata as `NAME.metadata.json`.

    The metadata names FOCUS's version; in Parquet the schema's own does as well. Returns the number
    of rows. Raises `ConfigurationError` for another ending, and where there is no such folder.
    """
    target = Path(path)
    check_target(target, what="FOCUS")
    rows = write_batches(target, FOCUS_SCHEMA, focus_batches(usage, biller=biller, where=where))
    side_file = target.with_name(f"{target.name}.metadata.json")
    side_file.write_text(json.dumps(_metadata(), indent=2) + "\n", "utf-8")
    return rows


def _metadata() -> dict[str, object]:
    return {
        "DataGenerator": {"DataGenerator": GENERATOR},
        "Schema": {
            "SchemaId": f"{GENERATOR}-focus-{FOCUS_VERSION}",
            "CreationDate": CREATED_ON,
            "FocusVersion": FOCUS_VERSION,
            "ColumnDefinition": [
                {"ColumnName": field.name, "DataType": str(field.type)} for field in FOCUS_SCHEMA
            ],
        },
    }


def _not_sandbox() -> pc.Expression:
    endpoint, basis = pc.field("endpoint_id"), pc.field("cost_basis")
    return (endpoint.is_null() | (endpoint != SANDBOX)) & (basis.is_null() | (basis != SANDBOX))


def _charge(row: Mapping[str, Any], biller: Biller) -> dict[str, Any]:
    provider = biller.provider or _host(row["endpoint_id"])
    day = row["started_at"].astimezone(timezone.utc).replace(hour=0, minute=0, second=0)
    day = day.replace(microsecond=0)
    month = day.replace(day=1)
    return {
        **dict.fromkeys(_COSTS, row["cost_usd"] or Decimal(0)),
        "BillingAccountId": biller.account_id or provider,
        "BillingAccountName": biller.account_name,
        "BillingCurrency": "USD",
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "ChargeCategory": "Usage",
        "ChargeDescription": _description(row),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": day,
        "ChargePeriodEnd": day + timedelta(days=1),
        "ConsumedQuantity": Decimal(1),
        "ConsumedUnit": "Requests",
        "InvoiceIssuerName": provider,
        "PricingQuantity": Decimal(1),
        "PricingUnit": "Requests",
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Image generation",
        "ServiceSubcategory": "Generative AI",
        "SkuId": row["model"] or UNKNOWN,
        "x_IsEstimate": row["cost_basis"] != "reported",
        **{name: row[column] for name, column in _CUSTOM.items()},
        "x_CostBasis": row["cost_basis"] or UNKNOWN,
        # Rows from before version 0.2 have no bound of their own.
        "x_CostUsdMax": row["cost_usd"] if row["cost_usd_max"] is None else row["cost_usd_max"],
    }


def _description(row: Mapping[str, Any]) -> str:
    made = " ".join(str(row[name]) for name in ("model", "size", "quality") if row[name])
    return f"Image request, {made or UNKNOWN}: {row['status']}, cost {row['cost_basis'] or UNKNOWN}"


def _host(endpoint_id: str | None) -> str:
    text = endpoint_id or UNKNOWN
    return urlsplit(text).hostname or text
