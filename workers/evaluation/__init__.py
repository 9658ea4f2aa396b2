"""What is measured and drawn after training."""

from symadj.workers.evaluation.report import Evaluator

__all__ = ["Evaluator"]
