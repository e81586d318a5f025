"""`read_ratings` on files of every kind, against what was written, the csv module and pandas."""

import bz2
import csv
import gzip
import io
import json
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jax_mmf import completion
from jax_mmf.completion import read_ratings, record_files, text_file

pa = pytest.importorskip("pyarrow")
from pyarrow import feather, ipc, parquet  # noqa: E402

ENTRIES = {("ann", 7): 4.0, ("bob", 7): 2.5, ("bob", 12): 1.0}
NAMES = {"user": "who", "item": "what", "value": "stars", "timestamp": "when"}


def triplets(ratings):
    users, items = ratings.user_ids.values.tolist(), ratings.item_ids.values.tolist()
    return {
        (users[u], items[i]): float(v) for u, i, v in zip(ratings.users, ratings.items, ratings.values, strict=True)
    }


def rows():
    return [[user, item, value, time] for time, ((user, item), value) in enumerate(ENTRIES.items())]


def text(separator, header=None, table=None):
    return "\n".join(separator.join(map(str, row)) for row in ([header] if header else []) + (table or rows())) + "\n"


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", "::", " ", "||"])
@pytest.mark.parametrize("name", ["r.csv", "r.dat", "r.txt", "r"])
def test_separators_with_names_and_without(tmp_path, name, separator):
    given = {"separator": separator} if separator == "||" else {}
    path = tmp_path / name
    for header in (None, ["userId", "movieId", "rating", "timestamp"]):
        path.write_text(text(separator, header))
        ratings = read_ratings(path, **given)
        assert triplets(ratings) == ENTRIES
        assert ratings.timestamps.tolist() == [0, 1, 2]
    path.write_text(text(separator, list(NAMES.values())))
    assert triplets(read_ratings(path, **NAMES, **given)) == ENTRIES


@pytest.mark.parametrize("names", [("User-ID", "Item_Id"), ("user_id:token", "movie_id:token"), ("USER", "movie id")])
def test_names_are_found_in_any_spelling(tmp_path, names):
    path = tmp_path / "r.csv"
    path.write_text(text(",", [*names, "Score", "Time"]))
    assert triplets(read_ratings(path)) == ENTRIES


def test_columns_by_number_and_without_some(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(text(",", table=[[t, v, "x", i, u] for u, i, v, t in rows()]))
    with pytest.raises(ValueError, match="column of users, got the columns 0, 1, 2, 3, 4; .*--user-column"):
        read_ratings(path)
    ratings = read_ratings(path, user=4, item=3, value=1, timestamp=0)
    assert triplets(ratings) == ENTRIES
    assert ratings.timestamps.tolist() == [0, 1, 2]
    assert set(triplets(read_ratings(path, user=4, item=3)).values()) == {1.0}
    for wrong in (5, -1, 1.0, True):
        with pytest.raises(ValueError, match=f"user={wrong} is not a column"):
            read_ratings(path, user=wrong, item=3)
    with pytest.raises(ValueError, match="must be different columns of .*'user': 4, 'item': 4"):
        read_ratings(path, user=4, item=4)
    path.write_text(text(",", list(NAMES.values())))
    with pytest.raises(ValueError, match="value='x' is not a column of .*who, what"):
        read_ratings(path, user="who", item="what", value="x")


def test_a_first_line_of_text_is_data_if_that_is_said(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("a,x\nb,y\n")
    assert triplets(read_ratings(path, header=False)) == {("a", "x"): 1.0, ("b", "y"): 1.0}
    assert triplets(read_ratings(path, user="a", item="x")) == {("b", "y"): 1.0}


@pytest.mark.parametrize("separator", [",", "::"])
def test_comments(tmp_path, separator):
    lines = text(separator).splitlines()
    path = tmp_path / "r.txt"
    path.write_text("\n".join(["% sym", lines[0], "% more::,", *lines[1:], "%"]))
    assert triplets(read_ratings(path, comment="%")) == ENTRIES
    path.write_text("\n".join(["% sym", lines[0], "%", lines[1].replace("2.5", "good")]))
    with pytest.raises(ValueError, match="rating must be finite numbers, got 'good' in line 4"):
        read_ratings(path, comment="%")


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"]


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2"])
@pytest.mark.parametrize("separator", [",", "::"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_are_found_also_late_in_a_compressed_file(tmp_path, encoding, separator, ending, monkeypatch):
    monkeypatch.setattr(text_file, "_BLOCK", 4096)
    table = [[f"user {u}", 1, 3, u] for u in range(1000)] + [["zoé", 1, 4, 0]]
    data = text(separator, ["userId", "itemId", "rating", "time"], table).encode(encoding)
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[ending]
    path = tmp_path / f"r.csv{ending}"
    path.write_bytes(pack(data))
    expected = {(u, i): v for u, i, v, _ in table}
    for given in (None, encoding):
        assert triplets(read_ratings(path, encoding=given)) == expected


def test_encodings_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes("zoé,1,3\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"r\.csv is not text in utf-8 .*give its encoding"):
        read_ratings(path, encoding="utf-8")
    with pytest.raises(ValueError, match="encoding must be .*'utf-9'"):
        read_ratings(path, encoding="utf-9")
    # What is not loaded may hold anything.
    path.write_bytes(b"userId,title,itemId\n1,\xff\xfe,2\n")
    assert triplets(read_ratings(path)) == {(1, 2): 1.0}


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r")).map("x".__add__)  # text, not numbers


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.dictionaries(st.tuples(CELLS, CELLS), st.integers(-5, 5), min_size=1), st.sampled_from(",;\t"))
def test_quoted_text_is_that_of_the_csv_module(tmp_path_factory, entries, separator):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(["userId", "note", "itemId", "rating"])
    writer.writerows([u, f'"{i}\n', i, v] for (u, i), v in entries.items())
    path = tmp_path_factory.mktemp("quoted") / "r.tsv"
    path.write_bytes(out.getvalue().encode())
    assert triplets(read_ratings(path)) == entries


def test_large_files_are_those_of_pandas(tmp_path, monkeypatch):
    """Many blocks, of text, Parquet and JSON lines."""
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(text_file, "_BLOCK", 2000)
    monkeypatch.setattr(record_files, "_ROWS", 100)
    g = np.random.default_rng(0)
    users, items = np.nonzero(g.random((300, 40)) < 0.3)
    frame = pandas.DataFrame(
        {
            "userId": users + 2**53,
            "itemId": items,
            "rating": g.normal(size=len(users)),
            "time": g.permutation(len(users)),
        }
    ).sample(frac=1, random_state=0)
    expected = completion.Ratings.from_frame(frame, user="userId", item="itemId", timestamp="time")
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_parquet(tmp_path / "r.parquet")
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True, double_precision=15)
    for name in ("r.csv", "r.parquet", "r.jsonl"):
        ratings = read_ratings(tmp_path / name)
        assert ratings.user_ids == expected.user_ids
        assert ratings.user_ids.values.dtype == np.int64
        for column in ("users", "items", "values", "timestamps"):
            np.testing.assert_array_equal(getattr(ratings, column), getattr(expected, column))


# Files whose cells have types


def write_stream(table, path):
    with ipc.new_stream(path, table.schema) as file:
        file.write_table(table)


def write_lines(table, path):
    path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))


WRITERS = {
    "r.parquet": parquet.write_table,
    "r.feather": feather.write_feather,
    "r.arrow": write_stream,
    "r.jsonl": write_lines,
}


@pytest.mark.parametrize("name", WRITERS)
def test_typed_ids_keep_their_types(tmp_path, name):
    large = [2**63 + 1, 2**63 + 3, 2**63 + 5]
    table = pa.table({
        "comment": ["x", "y", "z"], "userId": pa.array(large, pa.uint64()), "itemId": ["7", "8", "07"],
        "rating": pa.array([1, 2, 3], pa.int8()), "timestamp": [2**31, 5, 6],
    })  # fmt: skip
    WRITERS[name](table, tmp_path / name)
    ratings = read_ratings(tmp_path / name)
    assert triplets(ratings) == {(large[0], "7"): 1.0, (large[1], "8"): 2.0, (large[2], "07"): 3.0}
    assert ratings.timestamps.tolist() == [2**31, 5, 6]
    assert triplets(read_ratings(tmp_path / name, user="comment", item=1, value="timestamp"))[("y", large[1])] == 5
    WRITERS[name](pa.table({"userId": [1], "thing": [2]}), tmp_path / name)
    with pytest.raises(ValueError, match="column of items, got the columns userId, thing"):
        read_ratings(tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_missing_is_named_by_its_row(tmp_path, name):
    whole = {"user": [1, 2, 3], "item": [1, 2, 3], "rating": [1.0, 2.0, 3.0], "time": [1, 2, 3]}
    for column, words in (
        ("user", "users and items must have ids, got 'None' as user in (row 2|line 2)"),
        ("rating", "rating must be finite numbers, got 'None' in row 2"),
        ("time", "time must be finite numbers, got 'None' in row 2"),
    ):
        damaged = whole | {column: [whole[column][0], None, whole[column][2]]}
        WRITERS[name](pa.table(damaged), tmp_path / name)
        with pytest.raises(ValueError, match=words):
            read_ratings(tmp_path / name)
    WRITERS[name](pa.table(whole | {"rating": ["1", "2", "good"]}), tmp_path / name)
    with pytest.raises(ValueError, match="rating must be finite numbers.*good"):
        read_ratings(tmp_path / name)


@pytest.mark.parametrize("open_file", [ipc.new_file, ipc.new_stream])
def test_empty_batches_of_arrow_are_skipped(tmp_path, open_file):
    columns = [["a", "b"], ["x", "y"], [1.0, 2.0], ["2020-01-01", "2020-01-02"]]
    batch = pa.record_batch(columns, names=["user", "item", "rating", "time"])
    with open_file(tmp_path / "ratings.arrow", batch.schema) as file:
        for part in (batch[:0], batch, batch[:0]):
            file.write_batch(part)
    found = read_ratings(tmp_path / "ratings.arrow")
    assert list(found.values) == [1, 2]
    assert list(found.timestamps) == list(np.array(columns[3], "datetime64[us]"))
    with open_file(tmp_path / "empty.arrow", batch.schema) as file:
        file.write_batch(batch[:0])
    with pytest.raises(ValueError, match="empty.arrow holds no ratings"):
        read_ratings(tmp_path / "empty.arrow")


def test_dates_of_arrow_are_in_utc(tmp_path):
    from datetime import UTC, datetime, timedelta, timezone

    dates = [datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime(2020, 1, 1, tzinfo=UTC)]
    table = pa.table({"user": [1, 2], "item": [1, 2], "time": pa.array(dates, pa.timestamp("ms", "Europe/Berlin"))})
    parquet.write_table(table, tmp_path / "r.parquet")
    found = read_ratings(tmp_path / "r.parquet").timestamps
    np.testing.assert_array_equal(found, np.array(["2020-01-01T22:00", "2020-01-01"], "datetime64[ms]"))


def test_mixed_ids_of_json_stay_apart(tmp_path):
    path = tmp_path / "r.jsonl"
    rows = [{"user": 1, "item": "a"}, {"user": "1", "item": "a"}, {"user": 2**70, "item": "a"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert triplets(read_ratings(path)) == {(1, "a"): 1.0, ("1", "a"): 1.0, (2**70, "a"): 1.0}
    path.write_text('{"user": 1, "item": 2}\n{"rating": 3, "user": 1, "item": 3}')
    with pytest.raises(ValueError, match="rating must be finite numbers, got 'None' in row 1"):
        read_ratings(path)
    times = '{"user": 1, "item": 2, "time": 5}\n{"user": 1, "item": 3, "time": "2020-01-01"}'
    for bad, words in (
        ('{"user": [1], "item": 2}', "ids of users must be numbers, text or dates"),
        ("[1, 2]", r"a JSON object in UTF-8 in each line, got b'\[1, 2\]' in line 1"),
        ("{}\n{", "line 2"),
        (times, "time must hold cells of one type"),
    ):
        path.write_text(bad)
        with pytest.raises(ValueError, match=words):
            read_ratings(path)


@pytest.mark.parametrize("name", ["r.csv", "r.parquet", "r.arrow", "r.jsonl"])
def test_files_without_rows(tmp_path, name):
    if name == "r.csv":
        (tmp_path / name).write_text("user,item\n")
    else:
        WRITERS[name](pa.table({"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())}), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}.* (holds no ratings|column of users)"):
        read_ratings(tmp_path / name)


def test_archives_and_a_missing_pyarrow_say_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(b"user,item\n1,2\n")[:-9])
    with pytest.raises(OSError, match=r"r\.csv\.gz can't be read: "):
        read_ratings(tmp_path / "r.csv.gz")
    (tmp_path / "r.xlsx").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(ValueError, match=r"r\.xlsx is an archive or a spreadsheet"):
        read_ratings(tmp_path / "r.xlsx")
    for name in ("r.csv", *WRITERS):
        (tmp_path / name).write_text("1,2\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("r.csv", *WRITERS):
        with pytest.raises(ImportError, match=r"jax-mmf\[recommend\]"):
            read_ratings(tmp_path / name)


@pytest.mark.parametrize("write", [parquet.write_table, feather.write_feather])
def test_categories_are_ids_values_and_times(tmp_path, write):
    columns = {"user": ["x", "y", "x"], "item": [1, 1, 2], "rating": [1.5, 2.0, 2.5]}
    columns["timestamp"] = ["2020-01-02", "2020-01-01", "2020-01-03"]
    plain, coded = tmp_path / "plain.parquet", tmp_path / "ratings.parquet"
    coded = coded if write is parquet.write_table else tmp_path / "ratings.feather"
    parquet.write_table(pa.table(columns), plain)
    write(pa.table({name: pa.array(cells).dictionary_encode() for name, cells in columns.items()}), str(coded))
    assert triplets(read_ratings(coded)) == triplets(read_ratings(plain))
    assert read_ratings(coded).timestamps.tolist() == read_ratings(plain).timestamps.tolist()


def test_a_separator_may_be_any_character(tmp_path):
    path = tmp_path / "ratings.csv"
    for encoding in ("utf-8", "cp1252"):
        path.write_text("userId§movieId§rating\n1§a§3\n2§b§4\n", encoding)
        assert read_ratings(path, separator="§").values.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"separator": 3}, TypeError, "separator must be text or None, got 3"),
        ({"separator": ""}, ValueError, "separator must be characters between columns"),
        ({"comment": 3}, TypeError, "comment must be text or None"),
        ({"header": "yes"}, TypeError, "header must be True, False or None, got 'yes'"),
        ({"encoding": "base64"}, ValueError, "encoding must be one that Python knows"),
    ],
)
def test_options_of_text_are_checked(tmp_path, options, kind, message):
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating\n1,2,3\n")
    with pytest.raises(kind, match=message):
        read_ratings(path, **options)


def test_cells_that_can_not_be_ids_and_repeated_names_are_named(tmp_path):
    path = tmp_path / "ratings.parquet"
    parquet.write_table(pa.table({"user": [[1], [2]], "item": [1, 2]}), path)
    with pytest.raises(ValueError, match="ids of users must be numbers, text or dates, got user"):
        read_ratings(path)
    parquet.write_table(
        pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["user", "item", "item"]), path
    )
    with pytest.raises(ValueError, match="must have one column 'item', got several"):
        read_ratings(path)
    path = tmp_path / "ratings.jsonl"
    path.write_text('{"user": 1, "item": 2, "rating": 99999999999999999999999}\n')
    with pytest.raises(ValueError, match="rating must hold cells of one type"):
        read_ratings(path)
