"""Make the two recordings of README.md of what their sources publish.

    .venv/bin/python examples/direction/convert.py es ES.parquet mlfinpy-0.1.2-py3-none-any.whl
    .venv/bin/python examples/direction/convert.py ltc LTC.parquet LTCUSDT_2025-06-2*_trades.csv

It prints how many trades there are and the SHA-256 of their values: the bytes of a Parquet file depend on what wrote it, its values do
not. It ends with 1 if they are not those of the recordings that the figures are of.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    {
        "timestamp": pa.int64(),
        "received": pa.int64(),
        "exchange": pa.string(),
        "symbol": pa.string(),
        "price": pa.float64(),
        "volume": pa.float64(),
        "side": pa.int8(),
        "trade_id": pa.int64(),
    }
)
ES_MEMBER = "mlfinpy/dataset/data/tick_data.csv"
ES_TRADES = 300_000
"""The file goes on; the recording is its first trades."""
ES_AHEAD_NS = 5 * 3_600_000_000_000
"""The file's times are Chicago's in summer, UTC-5: they begin at 17:00 on a Sunday, when ES opens there."""
LTC_COLUMNS = {
    "timestamp": pa.int64(), "price": pa.float64(), "quantity": pa.float64(), "side": pa.string(), "tradeId": pa.int64(),
}  # fmt: skip
LTC_END_MS = int(datetime(2025, 6, 22, 5, tzinfo=UTC).timestamp()) * 1_000
KNOWN = {
    "es": "976ac20917ff34c9cd54050fdcddfd5ba210b084702830150310107bee792140",
    "ltc": "87d74655668456e9a37d662a43e19f741200703343a922f4fadb49beed094465",
}
"""What the values of each have to sum to."""


def es(files: Sequence[Path]) -> pa.Table:
    """Return the trades of tick_data.csv, or of the wheel that holds it: DateTime, Price, Volume.

    Nobody says what traded or in which time zone; that it is ES in Chicago follows from prices and hours. The side is not known, ids are
    made up in order.
    """
    if len(files) != 1:
        raise ValueError(f"es: expected one file, the wheel or tick_data.csv of it, found {len(files)}")
    (path,) = files
    data = zipfile.ZipFile(path).read(ES_MEMBER) if zipfile.is_zipfile(path) else path.read_bytes()
    types = {"DateTime": pa.timestamp("ns"), "Price": pa.float64(), "Volume": pa.float64()}
    rows = _read(io.BytesIO(data), types, str(path)).slice(0, ES_TRADES)
    timestamps = rows["DateTime"].cast(pa.int64()).to_numpy() + ES_AHEAD_NS
    count = len(timestamps)
    sides, ids = np.zeros(count, np.int8), np.arange(1, count + 1)
    return _table("CME", "ES", timestamps, rows["Price"], rows["Volume"], sides, ids)


def ltc(files: Sequence[Path]) -> pa.Table:
    """Return the trades of all files in the order of their ids, each once, before 05:00 UTC.

    Columns: timestamp (ms UTC), price, quantity, side (the taker's: buy, sell), tradeId (of an aggregate trade).
    """
    rows = pa.concat_tables([_read(path, LTC_COLUMNS, str(path)) for path in files])
    rows = rows.filter(pc.less(rows["timestamp"], LTC_END_MS))
    _, first = np.unique(rows["tradeId"].to_numpy(), return_index=True)  # in the order of the ids
    rows = rows.take(pa.array(first))
    said = set(rows["side"].unique().to_pylist())
    if not said <= {"buy", "sell"}:
        raise ValueError(f"ltc: found the sides {sorted(map(str, said))}, expected buy and sell")
    sides = np.where(rows["side"].to_numpy() == "buy", 1, -1).astype(np.int8)
    timestamps = rows["timestamp"].to_numpy() * 1_000_000
    return _table("binance", "LTC/USDT", timestamps, rows["price"], rows["quantity"], sides, rows["tradeId"])


MAKERS = {"es": es, "ltc": ltc}


def _read(source: io.BytesIO | Path, types: dict[str, pa.DataType], name: str) -> pa.Table:
    """Read the columns of a CSV file. Raises ValueError if they are others, or hold something else."""
    options = pyarrow.csv.ConvertOptions(column_types=types)
    rows = pyarrow.csv.read_csv(source, convert_options=options)
    if rows.column_names != list(types):
        raise ValueError(f"{name}: found the columns {', '.join(rows.column_names)}, expected {', '.join(types)}")
    return rows


def _table(exchange: str, symbol: str, timestamps: object, *rest: object) -> pa.Table:
    names = [pa.repeat(name, len(timestamps)) for name in (exchange, symbol)]  # type: ignore[arg-type]
    return pa.table([timestamps, timestamps, *names, *rest], schema=SCHEMA)


def digest(table: pa.Table) -> str:
    """Return the SHA-256 of a recording's values: column after column in the order of SCHEMA, numbers little-endian, names once."""
    total = hashlib.sha256()
    for field in SCHEMA:
        column = table[field.name]
        if pa.types.is_string(field.type):
            total.update("\n".join(sorted(column.unique().to_pylist())).encode() + b"\n")
        else:
            values = column.cast(field.type).to_numpy()
            total.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", choices=sorted(MAKERS))
    parser.add_argument("parquet", type=Path, help="the file to write")
    parser.add_argument("sources", nargs="+", type=Path, help="the wheel, or its CSV file; the CSV files of LTC")
    options = parser.parse_args()
    try:
        table = MAKERS[options.recording](options.sources)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    pq.write_table(table, options.parquet, compression="zstd")
    found = digest(table)
    print(f"{options.parquet}: {table.num_rows:,} trades, SHA-256 of their values {found}")
    if found != KNOWN[options.recording]:
        print(f"that is another recording than the one of README.md, which has {KNOWN[options.recording]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
