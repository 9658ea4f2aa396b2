#!/usr/bin/env bash
# Optuna 5.0.0: its storage can't be in a database whose owner uses Alembic too, and leaves its tables there.
#
# RDBStorage keeps its version in the table `alembic_version`, under the name that Alembic gives everybody's. In a database
# that has one, it makes its own tables, takes the other's version for its own, and refuses: the schema is said to be of
# another Optuna ("set up by optuna 5.0.0", which is the very one that runs), and to be mended by updating Optuna.
#
# Seen: RuntimeError, "The runtime optuna version 5.0.0 is no longer compatible with the table schema (set up by optuna
# 5.0.0)"; 12 tables of Optuna's are left beside the one that was there.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "optuna==5.0.0" "sqlalchemy==2.1.9" "alembic==1.20.1" "numpy==2.4.6"
cd "$work"
cat >share.py <<'PYTHON'
import optuna
import sqlalchemy as sa
from alembic.migration import MigrationContext

url = "sqlite:///shared.sqlite"
engine = sa.create_engine(url)
with engine.begin() as connection:
    context = MigrationContext.configure(connection)
    context._ensure_version_table()
    connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0001')"))  # as `alembic stamp 0001` leaves it
try:
    optuna.storages.RDBStorage(url)
    print("taken")
except RuntimeError as error:
    print(str(error).split(". ")[0].replace("\n", " "))
print(len(sa.inspect(engine).get_table_names()) - 1)
PYTHON
venv/bin/python share.py >seen 2>errors || { cat errors >&2; exit 1; }
cat seen
grep -q "optuna version 5.0.0 is no longer compatible with the table schema (set up by optuna 5.0.0)" seen
test "$(tail -n 1 seen)" = 12
