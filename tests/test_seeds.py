"""Seeds: one per role, all different, none lost."""

import torch

from kr_utils import classifier, seeds


def test_roles_numbers_and_runs_have_different_seeds():
    roles = ("teacher", "generator", "student", "short student", "selection", "distillation", "control")
    made = [seeds.derive(seed, role, k) for seed in range(50) for role in roles for k in range(3)]
    assert len(set(made)) == len(made)
    assert all(0 <= value < 2**31 for value in made)
    assert seeds.derive(0, "teacher") == seeds.derive(0, "teacher", 0)


def test_teacher_and_student_do_not_start_from_the_same_weights():
    first, second = (classifier.build(2, 1, 8, 8, seeds.derive(0, role)) for role in ("teacher", "student"))
    assert not torch.equal(first.head.weight, second.head.weight)
