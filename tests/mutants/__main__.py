"""`python -m tests.mutants`: plants one mistake at a time, and says which test noticed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants.listed import MUTANTS
from tests.mutants.page import markdown
from tests.mutants.run import ROOT, copied, every_test, judged, outcome_of, warmed

_SECONDS = 3600
"""For the tests of all mutants, without a mistake."""


def main(words: list[str]) -> int:
    """1 where a mutant is not killed, or a test fails without one, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--like", default="", help="only mutants whose name contains this")
    parser.add_argument("--write", type=Path, help="the markdown file to write")
    given = parser.parse_args(words)
    wanted = [mutant for mutant in MUTANTS if given.like in mutant.name]
    for mutant in wanted:
        try:
            mutant.applied((ROOT / mutant.path).read_text(encoding="utf-8"))
        except ValueError as err:
            parser.error(str(err))
    tests = every_test(wanted)
    warmed()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        copied(ROOT, tree)
        whole = outcome_of(tree, tests, _SECONDS, stops=False)
        if whole.outcome != "survived":
            print(f"fails without a mistake:\n{whole.said}", flush=True)
        verdicts = {}
        for mutant in wanted:
            one = verdicts[mutant.name] = judged(mutant, tree)
            print(f"{one.outcome:8} {one.seconds:5.1f} s  {mutant.name}  {one.test}", flush=True)
            if one.outcome == "broken":
                print(one.said, flush=True)
    text = markdown(verdicts, whole, len(tests), " ".join(["python -m tests.mutants", *words]))
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    killed = all(verdict.outcome == "killed" for verdict in verdicts.values())
    return int(not killed or whole.outcome != "survived")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
