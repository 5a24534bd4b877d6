"""What the table shows of peers, and how that was shown."""

NOTES = [
    "Every image that one side alone fooled was judged again by the same net and found inside "
    "ball and box, so an image in `only ours` is one that the peer missed, whatever it "
    "returned.",
    "`LinfPGD`, `BIM`, `PGD` (foolbox, torchattacks, ART) return the last point of the path; "
    "ours and adversarial-library's `pgd_linf` take any step that fooled. Where paths leave a "
    "wrong class again (mnist advtrain, the same deterministic path) that is worth 5 to 6 "
    "points: ours fools 57 images more than theirs and none less, and agrees with "
    "adversarial-library on each.",
    "foolbox's MI-FGSM adds up raw gradients (`mi_fgsm.py`, `GDMOptimizer.__call__`); the paper "
    "divides each by its l1 norm first. torchattacks, ART and ours do so and agree on every "
    "image; foolbox leaves more standing.",
    "foolbox's `L2FMNAttack.project` multiplies by `min(1, norms / norms)`, which is 1: nothing "
    "is ever projected (`fast_minimum_norm.py`), and on the undefended net almost every image "
    "of ours is nearer.",
    "adversarial-library's `l2_projection_` clamps the perturbation in place of the factor, so "
    "that it is always rescaled to the radius, inside it too. On the undefended net that loses a "
    "third of the images; on the adversarially trained one it found more than FMN as published "
    "does (with the factor clamped 87 of 127 images there, ours then 88, as it is 127). Ours now "
    "moves out to its radius until the first success, and is weaker nowhere.",
    "foolbox and adversarial-library project FMN's points onto the ball and then onto the box; "
    "ours onto both at once, which shows under l1.",
    "torchattacks' `DeepFool` does not go the 1e-4 further that foolbox, adversarial-library "
    "and ours do: its last steps shrink to nothing before the boundary, and images that the "
    "three others fool are returned unbroken. ART's overshoots the whole move at its end, not each "
    "step.",
    "Ours looks once more at the point of the last step (101 forward queries in place of 100): the "
    "small differences of DDN, all in its favour.",
    "adversarial-library's `df` and ours end every step of DeepFool in the box and go on from "
    "there; foolbox adds up the unclipped steps, as the paper does, and ends up to 3 % further "
    "away. Ours did so too and was significantly weaker than `df` before it was changed.",
    "torchattacks' `AutoAttack` runs every stage with 10 steps where the paper has 100 (`APGD`, "
    "`APGDT`, `FAB` are built without `steps`); the row `tests.agreement.peers:autoattack` runs "
    "its own stages with 100.",
    "torchattacks' `PGDL2` draws its start's radius uniformly, so that it is nearer to the "
    "image than a point drawn from the ball; only runs from the image are compared. Its `FAB` "
    "fails under l1 (`res` is never set).",
    "HopSkipJump and the boundary attack at equal queries: ours comes nearer than foolbox's and "
    "ART's under l2; under linf foolbox's HopSkipJump is level. SPSA: both smooth steps, ours "
    "by momentum, torchattacks' by Adam.",
    "Square under l2: 78.6 against torchattacks' 77.5 % under eight seeds, 78.2 against 77.7 under "
    "seven others (11 to 17). The formulas are the same; drawing places as theirs does, without "
    "the last row and column, gives 78.4. Whether more than chance is behind it is open.",
    "AutoAttack as published, 1,000 images of the adversarially trained net at linf 0.3: the same "
    "images stand; ours asks 5 % fewer forward queries and more backward ones (FAB's gradients), "
    "1.3 % more in all.",
]
