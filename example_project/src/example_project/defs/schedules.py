"""What runs by itself, and what can be run by name."""

import dagster as dg

hero_pictures = dg.define_asset_job(
    "hero_pictures", selection="hero", description="The pictures alone, without the contact sheet."
)

# Stopped until someone starts it in the UI: against a real endpoint a run can cost money. It asks
# for products that are new or changed, and for nothing else.
nightly = dg.ScheduleDefinition(
    name="nightly", target=dg.AssetSelection.all(), cron_schedule="0 2 * * *"
)
