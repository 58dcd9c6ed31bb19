"""What the usage table says of money: the bill, explained and drawn. Knows nothing of Dagster."""
