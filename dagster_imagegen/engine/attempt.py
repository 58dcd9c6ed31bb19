"""The words for what became of a request and of its cost."""

from typing import Literal, TypeAlias

Status: TypeAlias = Literal["succeeded", "refused", "rejected", "rate_limited", "failed", "unknown"]
Billing: TypeAlias = Literal["billed", "not_billed", "unknown"]
CostBasis: TypeAlias = Literal["reported", "metered", "estimated", "unknown", "sandbox"]
