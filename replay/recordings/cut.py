"""Cut a built-in recording from the full capture: `python cut.py CAPTURE.jsonl.gz OUT.jsonl.gz`.

Lines are kept byte for byte, with the number `n` they have in the capture. The order books, the candles and the REST snapshots go,
but for the first messages of the thin markets, so that replay meets what a decoder ignores.
"""

import gzip
import json
import sys

DEPTH_MESSAGES_KEPT = 8
DEPTH_CHARACTERS_MAX = 2_000  # the first message of a Coinbase book is 5 MB
DEPTH = (
    "@depth",
    '"channel":"l2_data"',
    '"type":"l2update"',
    '"type":"snapshot","product_id"',
    '"subject":"trade.l2update"',
)
CANDLES = '"channel":"candles"', '"subject":"trade.candles'
CANDLES_KEPT = "cryptofeed-kucoin-"  # there are four of them


def cut(source: str, target: str) -> None:
    """Copy what the recording keeps of `source` to `target`. Equal input gives equal bytes: no time, no file name."""
    depth_left = DEPTH_MESSAGES_KEPT
    with (
        gzip.open(source, "rb") as lines,
        open(target, "wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as kept,
    ):
        for line in lines:
            row = json.loads(line)
            if row["kind"] == "http":
                continue
            if row["kind"] == "recv" and any(mark in row["raw"] for mark in DEPTH):
                if row["conn"].startswith("hftbacktest-") or depth_left == 0 or len(row["raw"]) > DEPTH_CHARACTERS_MAX:
                    continue
                depth_left -= 1
            is_candle = row["kind"] == "recv" and any(mark in row["raw"] for mark in CANDLES)
            if is_candle and not row["conn"].startswith(CANDLES_KEPT):
                continue
            kept.write(line)


if __name__ == "__main__":
    cut(*sys.argv[1:])
