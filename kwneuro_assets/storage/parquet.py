"""Tables as Parquet, for statistics software and for cohorts whose text is slow to parse."""

from __future__ import annotations

from typing import IO

from kwneuro_assets.imaging import Table

_TYPES = {"integer": "int64", "number": "float64", "text": "string"}


def write_parquet(table: Table, file: IO[bytes]) -> None:
    """Write `table` with one column per column, of the type int64, float64 or string; missing values are null.

    The same table gives the same bytes with the same release of pyarrow.
    """
    import pyarrow
    from pyarrow import parquet

    fields = [pyarrow.field(name, getattr(pyarrow, _TYPES[kind])()) for name, kind in table.kinds.items()]
    arrays = [pyarrow.array(table.columns[field.name], field.type) for field in fields]
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(arrays, schema=pyarrow.schema(fields)), sink, compression="zstd")
    file.write(sink.getvalue().to_pybytes())
