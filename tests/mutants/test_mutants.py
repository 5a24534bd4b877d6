"""The list of mutants stays true of the code, and the run tells the dead from the living."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import attacks
from tests.mutants.listed import MUTANTS
from tests.mutants.mutant import Mutant

CODE = Path(attacks.__file__).parents[1]
TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_its_killers_exist(mutant: Mutant) -> None:
    text = (CODE / mutant.path).read_text(encoding="utf-8")
    changed = mutant.applied(text)
    assert changed != text
    compile(changed, str(mutant.path), "exec")
    for test in mutant.tests:
        file, name = re.fullmatch(r"(.*\.py)::(\w+)(?:\[.*\])?", test).groups()
        assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8")


def test_names_are_of_one_mutant() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_every_attack_has_a_mutant_in_its_own_code() -> None:
    """In its class or one that it is made from."""
    changed = {f"attacks.{mutant.path.stem}" for mutant in MUTANTS}
    for name in attacks.registry.attacks.table:
        behind = {each.__module__ for each in type(attacks.get(name)).__mro__}
        assert behind & changed, name


def test_a_text_that_is_not_there_once_is_refused() -> None:
    mutant = Mutant("one", "sum.py", "a + b", "a - b", "the sum", ())
    for text, count in (("a * b", 0), ("a + b + a + b", 2)):
        with pytest.raises(ValueError, match=f"one: attacks/sum.py must hold .* once, got {count}"):
            mutant.applied(text)


RUN = """
import sys
from pathlib import Path
from tests.mutants.mutant import Mutant
from tests.mutants.run import judged, outcome_of

tree = Path(sys.argv[1])
for new in ("a - b", "b + a", "a +"):
    mutant = Mutant("one", "sum.py", "a + b", new, "the sum", ("sum::it_adds",))
    verdict = judged(mutant, tree)
    print(verdict.outcome, verdict.test)
print(outcome_of(tree, mutant.tests, 60).outcome)
"""


def test_a_mutant_that_no_test_notices_survives(tmp_path: Path) -> None:
    """A tree of one sum: a wrong one, an equal one, one that is no code, and as it was."""
    for file, text in (
        ("attacks/__init__.py", ""),
        ("attacks/sum.py", "def add(a, b):\n    return a + b\n"),
        (
            "tests/attacks/test_sum.py",
            "from attacks.sum import add\n\n\ndef test_it_adds():\n    assert add(2, 1) == 3\n",
        ),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS)
    killer = "tests/attacks/test_sum.py::test_it_adds"
    assert done.stdout.split() == ["killed", killer, "survived", "broken", "survived"], done.stderr
