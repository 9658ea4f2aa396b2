"""What is measured and drawn after training."""

from workers.evaluation.report import Evaluator

__all__ = ["Evaluator"]
