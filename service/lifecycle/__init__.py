"""What may happen to a job, each call in the caller's transaction.

``requests`` is what users ask for, ``attempts`` what becomes of the tries at a job, ``parents`` what a job may go on
from. Every change of state goes through ``store.jobs.transition``, which allows no illegal one.
"""
