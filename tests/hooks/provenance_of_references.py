"""Names the given markdown and HTML files that do not say which command and version made them.

Markdown needs a line such as

    Made by `bench run --attack pgd --seed 0` with adversarial-bench 0.1.0.

or the call of a function of ours, `bench.transfer_matrix([...], dataset='mnist')`, in its place.

HTML needs the same words anywhere; there the command may stand in <code> instead of backticks. The
command is one of `bench`, or of `python -m tests.agreement`, its scripts and `python -m
tests.mutants`.
"""

import re
import sys
from pathlib import Path

VERSION = r".*?\b\d+\.\d+\.\d+"
COMMAND = r"(?:bench[ .]|python -m tests\.(?:agreement|mutants)[ .])"
MARKDOWN = re.compile(rf"^Made by .*?`{COMMAND}[^`\n]+`" + VERSION, re.MULTILINE)
HTML = re.compile(rf"Made by .*?(`{COMMAND}[^`\n]+`|<code>{COMMAND}[^<\n]+</code>)" + VERSION)


def says_who_made_it(path: Path) -> bool:
    """Whether the file names the command and the version behind it."""
    pattern = HTML if path.suffix == ".html" else MARKDOWN
    return pattern.search(path.read_text(encoding="utf-8")) is not None


def main(names: list[str]) -> int:
    """1, with a line for each file that is silent about its making, else 0."""
    silent = [name for name in names if not says_who_made_it(Path(name))]
    for name in silent:
        print(f"{name}: needs a line 'Made by `bench ...` with adversarial-bench X.Y.Z'")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
