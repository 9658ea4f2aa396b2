"""The job spec: what a user POSTs, with every default written out.

Pydantic only, so that the API, the workers and a user's own script can import it alike. :class:`JobSpec` is the whole;
its sections are in the module of their subject (``spec.flow``, ``spec.solver`` ...). Every section that may grow
variants is a union discriminated by its ``kind``. Quantities carry their unit in their name (``max_minutes``) or in
their value (``memory_budget: "12GiB"``).
"""

from __future__ import annotations

from symadj.service.contract.spec.job import JobSpec

__all__ = ["JobSpec"]
