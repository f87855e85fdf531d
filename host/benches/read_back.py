"""Reads what `trainer convert` writes by pyarrow and DuckDB: read_back.py TRAINER [PARQUET_FOLDER].

Seeded rows of many types go to Parquet, Arrow and JSON lines (plain, gzip, zstd) and must come back
as Python's own json reads them. Parquet files of other programs (such as apache/parquet-testing)
go through `trainer convert` to Parquet and must hold the same values, read by pyarrow, before and
after."""

import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile

import duckdb
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq


def convert(trainer, source, target, *more):
    command = [trainer, "convert", "--input", str(source), "--output", str(target), "--overwrite", "True", *more]
    return subprocess.run(command, capture_output=True, text=True)


def rows(count):
    rng = random.Random(11)
    texts = ["", "plain", "Zeile\nzwei", 'a "quoted" \\ word', "木 – é \U0001f600", "x" * 3000, "\t\u0001"]
    for i in range(count):
        row = {
            "id": i - count // 2,
            "big": (1 << 53) + i,
            "score": rng.uniform(-1e6, 1e6),
            "flag": rng.random() < 0.5,
            "text": rng.choice(texts),
            "maybe": None if i % 3 == 0 else rng.choice(texts),
            "list": [rng.randint(-5, 5) for _ in range(rng.randint(0, 4))],
            "messages": [{"role": r, "content": rng.choice(texts)} for r in ("user", "assistant")],
            "nested": {"a": {"b": [[1.5, None], []]}, "c": None if i % 2 else "s"},
        }
        if i % 5 == 0:
            row["late"] = "only sometimes"
        yield row


def plain(value):
    """A value as comparable Python: absent fields are nulls, maps are dictionaries."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value


def same(name, got, want):
    got, want = [plain(r) for r in got], [plain(r) for r in want]
    for i, (g, w) in enumerate(zip(got, want)):
        if g != w:
            sys.exit(f"{name}: row {i} differs\n  got  {g}\n  want {w}")
    if len(got) != len(want):
        sys.exit(f"{name}: {len(got)} rows, not {len(want)}")
    print(f"{name}: {len(got)} rows are the same")


def duck(path, function):
    relation = duckdb.sql(f"select * from {function}('{path}')")
    return [dict(zip(relation.columns, row)) for row in relation.fetchall()]


def ours(trainer, folder):
    source = folder / "source.jsonl"
    want = list(rows(20_000))
    source.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in want))
    for name in ("a.parquet", "a.arrow", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        done = convert(trainer, source, folder / name, "--row_group_rows", "3000")
        if done.returncode:
            sys.exit(done.stderr)
    table = pq.read_table(folder / "a.parquet")
    same("Parquet by pyarrow", table.to_pylist(), want)
    meta = pq.ParquetFile(folder / "a.parquet").metadata
    column = meta.row_group(0).column(0)
    print(f"  {meta.num_row_groups} row groups, {column.compression}, page index {column.has_offset_index}")
    same("Parquet by DuckDB", duck(folder / "a.parquet", "read_parquet"), want)
    same("Arrow by pyarrow", pa.ipc.open_file(folder / "a.arrow").read_all().to_pylist(), want)
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"):
        kept = pa.input_stream(folder / name, compression={"gz": "gzip", "zst": "zstd"}.get(name.split(".")[-1]))
        same(f"{name} by Python", [json.loads(line) for line in kept.read().splitlines()], want)
    got = duckdb.sql(f"select count(*), sum(id), sum(big), sum(len(text)) from '{folder / 'a.jsonl.gz'}'").fetchall()[0]
    check = (len(want), sum(r["id"] for r in want), sum(r["big"] for r in want), sum(len(r["text"]) for r in want))
    if tuple(map(int, got)) != check:
        sys.exit(f"JSON lines by DuckDB: {got}, not {check}")
    print("JSON lines by DuckDB: the sums are the same")


def theirs(trainer, folder, parquet):
    same_files = refused = unreadable = 0
    for path in sorted(pathlib.Path(parquet).rglob("*.parquet")):
        out = folder / "theirs.parquet"
        done = convert(trainer, path, out)
        try:
            before = pq.read_table(path)
        except Exception as error:
            unreadable += 1
            print(f"{path.name}: pyarrow can't read it ({str(error).splitlines()[0][:60]}); trainer: {done.returncode}")
            continue
        if done.returncode:
            refused += 1
            print(f"{path.name}: refused: {done.stderr.strip()[:160]}")
            continue
        after = pq.read_table(out)
        if before.column_names != after.column_names:
            sys.exit(f"{path.name}: columns {after.column_names}, not {before.column_names}")
        same(path.name, after.to_pylist(), before.to_pylist())
        for field, other in zip(before.schema, after.schema):
            if field.type != other.type:
                print(f"  {field.name}: {field.type} became {other.type}")
        same_files += 1
    print(f"{same_files} files hold the same values, {refused} are refused, {unreadable} pyarrow can't read")


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ours(sys.argv[1], folder)
        if len(sys.argv) > 2:
            theirs(sys.argv[1], folder, sys.argv[2])


if __name__ == "__main__":
    main()
