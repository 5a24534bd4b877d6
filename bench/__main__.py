"""`python -m bench`: the same as the `bench` command."""

import sys
from pathlib import Path

# `python -m` puts the working directory first, where the user's own `models` would hide ours.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cli import main

if __name__ == "__main__":
    main()
