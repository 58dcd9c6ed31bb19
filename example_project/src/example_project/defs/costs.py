"""What the pictures have cost: a table, charts, and a report to open in a browser."""

from dagster_imagegen import build_cost_report_asset
from example_project.defs.pictures import hero

cost_report = build_cost_report_asset(image_assets=[hero], group_name="shop")
