"""The work of `trainer convert --plugin sharegpt` by engines that can express it: convert_engines.py
{polars|duckdb} IN OUT. Roles are renamed and turns become messages; turns of one role are not
joined, nothing is checked, and no row is accounted for."""

import sys
import time

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}


def by_polars(source, target):
    import polars as pl

    turn = pl.struct(
        pl.element().struct.field("from").replace_strict(ROLES, default=None).alias("role"),
        pl.element().struct.field("value").alias("content"),
    )
    rows = pl.scan_ndjson(source).select(messages=pl.col("conversations").list.eval(turn))
    rows.sink_parquet(target, compression="zstd") if target.endswith(".parquet") else rows.sink_ndjson(target)


def by_duckdb(source, target):
    import duckdb

    roles = "map {" + ", ".join(f"'{k}': '{v}'" for k, v in ROLES.items()) + "}"
    kind = "(format parquet, compression zstd)" if target.endswith(".parquet") else "(format json)"
    duckdb.sql(
        f"""copy (select list_transform(conversations,
              lambda t: {{'role': {roles}[t."from"], 'content': t."value"}}) as messages
            from read_json('{source}', format = 'newline_delimited')) to '{target}' {kind}"""
    )


def main():
    start = time.time()
    {"polars": by_polars, "duckdb": by_duckdb}[sys.argv[1]](sys.argv[2], sys.argv[3])
    print(f"{sys.argv[1]} to {sys.argv[3]}: {time.time() - start:.2f} s")


if __name__ == "__main__":
    main()
