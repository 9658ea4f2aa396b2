"""The store: SQLAlchemy tables, migrations, and one module of queries a resource. Queries stand nowhere else."""

from symadj.service.store.database import Database

__all__ = ["Database"]
