"""What it takes to import this project's public names on top of Dagster."""

import json
import sys
import time

import dagster  # noqa: F401

began, cpu = time.perf_counter(), time.process_time()
from dagster_imagegen import *  # noqa: E402, F403

seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
sys.stdout.write(f"\n{json.dumps({'seconds': seconds, 'cpu_seconds': cpu})}\n")
