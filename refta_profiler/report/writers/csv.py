"""results.csv with every row, and each table of the report as tables/<name>.csv with its numbers unrounded."""

import csv
import io
from pathlib import Path

from refta_profiler.report.parts import Document, Table
from refta_profiler.run_folder import RunFolder
from refta_profiler.whole_files import write_whole


def write(run: RunFolder, document: Document) -> list[Path]:
    """results.csv, then the tables."""
    folder = run.path / "tables"
    folder.mkdir(exist_ok=True)
    return [run.write_table(), *(write_whole(folder / f"{table.key}.csv", table_csv(table)) for table in document.tables())]


def table_csv(table: Table) -> str:
    """The table with the names of its values as header; bytes are bytes and fractions are fractions here."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key or column.name for column in table.columns])
    writer.writerows([[cell.text if cell.value is None else cell.value for cell in row] for row in table.rows])
    return text.getvalue()
