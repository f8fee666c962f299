"""What a learner meets in a lesson: `check` says what is wrong, `hint` helps step by step."""

from vit_tutorial.lessons.exercises import check, hint

__all__ = ["check", "hint"]
