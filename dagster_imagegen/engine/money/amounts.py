"""Amounts of money as text."""

from decimal import Decimal


def usd_text(usd: Decimal) -> str:
    """`$0.0423`, `$1,234.50`: to a hundredth of a cent; whole cents have two decimals.

    The one format in logs, metadata, checks and errors.
    """
    return f"${usd:,.4f}".removesuffix("00")
