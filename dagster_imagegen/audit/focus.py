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
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from dagster_imagegen.audit.scan import compute, encoded_batches
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
    "x_AssetGroup": "asset_group",
    "x_AssetOwners": "asset_owners",
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

_READ = (*_CUSTOM.values(), "asset_tags", "endpoint_id", "model", "size", "quality", "cost_usd")
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
    "Tags",
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
_CONSTANT: Mapping[str, tuple[object, pa.DataType]] = {
    "BillingCurrency": ("USD", pa.string()),
    "ChargeCategory": ("Usage", pa.string()),
    "ChargeClass": (None, pa.string()),
    "ChargeFrequency": ("Usage-Based", pa.string()),
    "ConsumedQuantity": (Decimal(1), MONEY),
    "ConsumedUnit": ("Requests", pa.string()),
    "PricingQuantity": (Decimal(1), MONEY),
    "PricingUnit": ("Requests", pa.string()),
    "ServiceCategory": ("AI and Machine Learning", pa.string()),
    "ServiceName": ("Image generation", pa.string()),
    "ServiceSubcategory": ("Generative AI", pa.string()),
}
"""The columns that say the same of all requests."""
_DURATION = pa.duration("us")
_NOTHING = pa.scalar(Decimal(0), MONEY)

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
    for fragment in usage.get_fragments(filter=of_money):
        for batch in encoded_batches(fragment, usage.schema, _READ, of_money):
            yield _charges(batch, biller or Biller())


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


def _charges(rows: pa.RecordBatch, biller: Biller) -> pa.RecordBatch:
    """All rows at once: one by one, ten million would take an hour."""
    provider = _text(biller.provider, _hosts(rows["endpoint_id"]), rows.num_rows)
    day = compute.floor_temporal(rows["started_at"], unit="day")
    month = compute.floor_temporal(day, unit="month")
    in_next_month = compute.add(month, pa.scalar(timedelta(days=32), _DURATION))
    basis = compute.fill_null(rows["cost_basis"], UNKNOWN)
    same = {name: _repeated(*each, rows.num_rows) for name, each in _CONSTANT.items()}
    made: dict[str, Any] = {
        **dict.fromkeys(_COSTS, compute.fill_null(rows["cost_usd"], _NOTHING)),
        "BillingAccountId": _text(biller.account_id, provider, rows.num_rows),
        "BillingAccountName": _text(biller.account_name, None, rows.num_rows),
        "BillingPeriodStart": month,
        "BillingPeriodEnd": compute.floor_temporal(in_next_month, unit="month"),
        "ChargeDescription": _descriptions(rows, basis),
        "ChargePeriodStart": day,
        "ChargePeriodEnd": compute.add(day, pa.scalar(timedelta(days=1), _DURATION)),
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), provider),
        "SkuId": compute.fill_null(_named(rows["model"]), UNKNOWN),
        "Tags": rows["asset_tags"],
        "x_IsEstimate": compute.not_equal(basis, "reported"),
        **{name: rows[column] for name, column in _CUSTOM.items()},
        "x_CostBasis": basis,
        # Rows from before version 0.2 have no bound of their own.
        "x_CostUsdMax": compute.coalesce(rows["cost_usd_max"], rows["cost_usd"]),
    }
    columns = same | made
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in FOCUS_SCHEMA.names], schema=FOCUS_SCHEMA
    )


def _text(value: str | None, otherwise: Any, rows: int) -> Any:
    """The same value for all rows, if there is one."""
    if not value and otherwise is not None:
        return otherwise
    return _repeated(value or None, pa.string(), rows)


def _repeated(value: object, kind: pa.DataType, rows: int) -> Any:
    scalar: Any = pa.scalar(value, kind)
    return pa.repeat(scalar, rows)


def _descriptions(rows: pa.RecordBatch, basis: Any) -> Any:
    parts = [_named(rows[name]) for name in ("model", "size", "quality")]
    made = compute.binary_join_element_wise(*parts, " ", null_handling="skip")
    made = compute.fill_null(_named(made), UNKNOWN)
    status = compute.fill_null(rows["status"], UNKNOWN)
    return compute.binary_join_element_wise(
        "Image request, ", made, ": ", status, ", cost ", basis, ""
    )


def _named(texts: Any) -> Any:
    """Texts, with null for one without characters."""
    return compute.if_else(compute.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _hosts(endpoints: Any) -> Any:
    encoded = compute.fill_null(endpoints, UNKNOWN).dictionary_encode()
    hosts = [_host(each) for each in encoded.dictionary.to_pylist()]
    return pa.array(hosts, pa.string()).take(encoded.indices)


def _host(endpoint_id: str) -> str:
    text = endpoint_id or UNKNOWN
    return urlsplit(text).hostname or text
