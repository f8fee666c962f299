"""`python -m vit_tutorial` is `vit-tutorial`."""

import sys

from vit_tutorial.cli import main

if __name__ == "__main__":
    sys.exit(main())
