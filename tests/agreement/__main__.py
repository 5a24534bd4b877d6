"""`python -m tests.agreement`: compares, prints, and writes the table."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench.store import Store
from tests.agreement import comparison, table
from tests.agreement.pairs import pairs


def main(words: list[str]) -> int:
    """1 where ours is weaker somewhere, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.agreement", description=__doc__)
    parser.add_argument("--group", default="", help="only these rows, such as `steps`")
    parser.add_argument("--net", default="", help="only this net, such as `mnist`")
    parser.add_argument("--like", default="", help="only rows whose attacks contain this")
    parser.add_argument("--store", type=Path, default=Path("results/agreement"))
    parser.add_argument("--stored", action="store_true", help="run nothing, compare what was run")
    parser.add_argument("--write", type=Path, help="the markdown file to write")
    given = parser.parse_args(words)
    wanted = [
        pair
        for pair in pairs(given.group)
        if given.net in ("", pair.net) and given.like in f"{pair.ours} {pair.peer}"
    ]
    root = os.environ.get("BENCH_DATA")
    done = []
    with Store.open(given.store) as store:
        place = comparison.Place(store, Path(root) if root else None, given.stored)
        for one in comparison.run(wanted, place):
            done.append(one)
            print(table.line(one), flush=True)
    done = comparison.adjusted(done)
    text = table.markdown(done, " ".join(["python -m tests.agreement", *words]))
    print("\n" + text)
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    return int(any("weaker**" in one.verdict or "point**" in one.verdict for one in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
