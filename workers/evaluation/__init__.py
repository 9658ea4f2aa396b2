"""Measurements and pictures of a trained flow."""

from symadj.workers.evaluation.report import Evaluator

__all__ = ["Evaluator"]
