"""What a learner meets in a lesson: `check` tells what is wrong, `hint` helps one step at a time."""

from vit_tutorial.lessons.exercises import check, hint

__all__ = ["check", "hint"]
