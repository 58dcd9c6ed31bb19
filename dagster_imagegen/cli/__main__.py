"""`python -m dagster_imagegen.cli`."""

import sys

from dagster_imagegen.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
