"""docs/schema.md: what stands in PostgreSQL, written from the comments that stand there with it.

Written by `python -m connectors.postgres_schema URL > docs/schema.md` from a migrated database.
"""

from __future__ import annotations

import sys
from itertools import groupby

from connectors.postgres import Connection, connect

_RELATIONS = """
SELECT relation.relname, relation.relkind, obj_description(relation.oid), attname, format_type(atttypid, atttypmod),
       attnotnull, coalesce(col_description(relation.oid, attnum), '')
FROM pg_class relation JOIN pg_attribute ON attrelid = relation.oid
WHERE relation.relnamespace = 'guard'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
ORDER BY relkind DESC, relname, attnum
"""

_TOP = """# The schema

Written from the comments in connectors/sql by `python -m connectors.postgres_schema URL > docs/schema.md`.
All of it stands in the schema `guard`. Read the views: their columns are added to, never renamed or dropped.
`written_at` is when PostgreSQL took a row, just before it could be seen; it differs after a replay, nothing else does.
"""


def document(connection: Connection) -> str:
    """The page, from a migrated database."""
    parts = [_TOP]
    rows = connection.execute(_RELATIONS).fetchall()
    for kind, of_kind in groupby(rows, lambda row: row[1]):
        parts.append("## Views\n" if kind == "v" else "## Tables\n")
        for (name, comment), columns in groupby(of_kind, lambda row: (row[0], row[2])):
            lines = [f"| {row[3]} | {row[4]}{' not null' if row[5] else ''} | {row[6]} |" for row in columns]
            parts.append("\n".join([f"### {name}\n\n{comment}\n\n| column | type | |\n|---|---|---|", *lines, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    with connect(sys.argv[1]) as database:
        sys.stdout.write(document(database))
