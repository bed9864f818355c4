"""Parquet, by pyarrow, which the extra `parquet` installs and only this format imports.

Source: https://arrow.apache.org/docs/python/parquet.html.
"""

import io
from collections.abc import Iterator, Sequence
from typing import IO, Any

from service.commands.folder.table.columns import CODE, PATH, Column
from service.commands.folder.table.header import Header, encode
from service.commands.folder.table.parts import Opener
from service.errors import InvalidOption
from service.http.answers import Answer

_GROUP_ROWS = 65_536


class Parquet:
    """Rows as Parquet; the header of the run is in the file's metadata too, under `fieldmark`.

    Args:
        columns: of the table.
        header: of the run.

    Raises:
        InvalidOption: pyarrow is missing.
    """

    def __init__(self, columns: Sequence[Column], header: Header) -> None:
        check_installed()
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
        self._pa, self._pq = pa, pq
        self._columns = columns
        self._schema = pa.schema(
            [(column.name, kinds[column.kind]) for column in columns], metadata={"fieldmark": encode(header)}
        )

    def table(self, rows: Sequence[Answer]) -> Any:
        """Return rows as Arrow's table."""
        cells = {column.name: [_value(column.cell(row)) for row in rows] for column in self._columns}
        return self._pa.table(cells, schema=self._schema)

    def write(self, tables: Sequence[Any]) -> bytes:
        """Return the content of a file of tables with these columns."""
        content = io.BytesIO()
        self._pq.write_table(self._pa.concat_tables([table.cast(self._schema) for table in tables]), content)
        return content.getvalue()

    def part(self, rows: Sequence[Answer]) -> bytes:
        """Return the content of a part."""
        return self.write([self.table(rows)])

    def read(self, file: IO[bytes]) -> Iterator[tuple[str, bool]]:
        """Yield path of every row, and whether the photo was bad."""
        table = self._pq.ParquetFile(file)
        if table.schema_arrow.names != self._schema.names:
            raise ValueError("other columns")
        for batch in table.iter_batches(columns=[PATH, CODE], use_threads=False):
            codes = batch.column(CODE).is_valid().to_pylist()
            yield from zip(batch.column(PATH).to_pylist(), codes, strict=True)

    def join(self, files: Sequence[Opener], out: IO[bytes]) -> None:
        """Write a table of the rows of a table and of parts."""
        held: list[Any] = []
        with self._pq.ParquetWriter(out, self._schema) as writer:
            for opened in files:
                with opened() as file:
                    for batch in self._pq.ParquetFile(file).iter_batches(use_threads=False):
                        held.append(batch)
                        if sum(one.num_rows for one in held) >= _GROUP_ROWS:
                            writer.write_table(self._table(held), row_group_size=2 * _GROUP_ROWS)
                            held = []
            if held:
                writer.write_table(self._table(held), row_group_size=2 * _GROUP_ROWS)

    def _table(self, batches: Sequence[Any]) -> Any:
        return self._pa.Table.from_batches(batches).replace_schema_metadata(self._schema.metadata)


def check_installed() -> None:
    """Refuse Parquet where pyarrow is missing.

    Raises:
        InvalidOption: it is.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - only looked for
    except ImportError as error:
        raise InvalidOption("Parquet needs the extra `parquet`: pip install 'fieldmark[parquet]'.") from error


def _value(value: Any) -> Any:
    """Return a cell; text that is no UTF-8 is escaped, as Parquet holds nothing else."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
