"""One module an implementation; each has ``make(problem, variant) -> step``, and ``step() -> Result``."""
