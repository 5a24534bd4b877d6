"""All mutants, by what they break."""

from tests.mutants.bookkeeping import COUNTED, KEPT, SCHEDULED
from tests.mutants.geometry import JUDGE, LOSSES, PROJECTIONS
from tests.mutants.mutant import Mutant
from tests.mutants.recipes import ASCENT, BLACK_BOX, MINIMAL

GROUPS: dict[str, list[Mutant]] = {
    "Ball, box and direction": PROJECTIONS,
    "Losses and targets": LOSSES,
    "The judge": JUDGE,
    "Ascent inside eps": ASCENT,
    "Minimal attacks": MINIMAL,
    "Black boxes, noise and transfer": BLACK_BOX,
    "What is kept of attempts and stages": KEPT,
    "What is counted": COUNTED,
    "Which radius comes next": SCHEDULED,
}
MUTANTS = [mutant for group in GROUPS.values() for mutant in group]
