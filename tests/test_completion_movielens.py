"""Files of ratings and of items, written here line by line."""

import tracemalloc

import jax
import numpy as np
import pytest

from jax_mmf import completion
from jax_mmf.cli import recommend_steps as command
from jax_mmf.completion import read_movielens_items, read_ratings

ENTRIES = [(196, 242, 3.0, 881250949), (186, 302, 3.5, 891717742), (196, 302, 1.0, 878887116)]


def lines(separator, entries=ENTRIES, header=None):
    rows = [] if header is None else [header]
    return "\n".join(
        [*rows, *(separator.join(f"{v:g}" if isinstance(v, float) else str(v) for v in e) for e in entries)]
    )


FILES = {
    "u.data": lines("\t"),
    "ratings.dat": lines("::"),
    "ratings.csv": lines(",", header="userId,movieId,rating,timestamp"),
    "ml.inter": lines("\t", header="user_id:token\titem_id:token\trating:float\ttimestamp:float"),
    "ml.tsv": lines("\t", header="user_id\titem_id\trating\ttimestamp"),
    "some.txt": lines("\t"),
}


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def triplets(ratings):
    users, items = ratings.user_ids.values.tolist(), ratings.item_ids.values.tolist()
    return {
        (users[u], items[i]): float(v) for u, i, v in zip(ratings.users, ratings.items, ratings.values, strict=True)
    }


def times(ratings):
    users, items = ratings.user_ids.values.tolist(), ratings.item_ids.values.tolist()
    return {(users[u], items[i]): t for u, i, t in zip(ratings.users, ratings.items, ratings.timestamps, strict=True)}


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
@pytest.mark.parametrize("name", FILES)
def test_every_format(tmp_path, name, end):
    text = FILES[name].replace("\n", "\r\n") if end == "\r\n" else FILES[name]
    path = write(tmp_path, name, text + end)
    for given in (path, str(path)):
        ratings = read_ratings(given)
        assert triplets(ratings) == {e[:2]: e[2] for e in ENTRIES}
        assert times(ratings) == {e[:2]: e[3] for e in ENTRIES}
        assert ratings.user_ids.values.dtype.kind == ratings.item_ids.values.dtype.kind == "i"


@pytest.mark.parametrize("name", ["u.data", "ratings.dat", "ratings.csv"])
def test_folders(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"u\.data"):
        read_ratings(tmp_path)
    write(tmp_path, "README", "nothing")
    write(tmp_path, name, FILES[name])
    assert len(read_ratings(tmp_path)) == 3


@pytest.mark.parametrize("name", FILES)
def test_one_line_and_no_times(tmp_path, name):
    text = FILES[name].splitlines()
    header = text[:1] if len(text) == 4 else []
    one = read_ratings(write(tmp_path, name, "\n".join([*header, text[-1]])))
    assert triplets(one) == {(196, 302): 1.0}
    separator = "::" if name.endswith(".dat") else "," if name.endswith(".csv") else "\t"
    without = "\n".join(separator.join(line.split(separator)[:3]) for line in text)
    ratings = read_ratings(write(tmp_path, name, without))
    assert ratings.timestamps is None
    assert triplets(ratings) == {e[:2]: e[2] for e in ENTRIES}


def test_clicks_without_values(tmp_path):
    ratings = read_ratings(write(tmp_path, "a.inter", "user_id:token\titem_id:token\n1\t2\n3\t4\n"))
    assert triplets(ratings) == {(1, 2): 1.0, (3, 4): 1.0}


def test_quotes_and_other_columns(tmp_path):
    text = '"movieId","comment","userId","rating"\n"7","good, ""very""",1,4.5\n8,,"2",3\n'
    assert triplets(read_ratings(write(tmp_path, "ratings.csv", text))) == {(1, 7): 4.5, (2, 8): 3.0}


def test_ids_of_text(tmp_path):
    text = "user_id:token\titem_id:token\trating:float\nann\tB00-1\t4\nbob\t12\t3.5\n"
    expected = {("ann", "B00-1"): 4.0, ("bob", "12"): 3.5}
    ratings = read_ratings(write(tmp_path, "a.inter", text))
    assert triplets(ratings) == expected
    csv = text.replace("\t", ",").replace("user_id:token", "userId").replace("item_id:token", '"movieId"')
    assert triplets(read_ratings(write(tmp_path, "a.csv", csv))) == expected
    # Users that are all whole numbers are integers, though the items are text.
    mixed = read_ratings(write(tmp_path, "u.data", "1\tx\t3\t9\n2\ty\t4\t8\n"))
    assert triplets(mixed) == {(1, "x"): 3.0, (2, "y"): 4.0}
    assert mixed.timestamps.tolist() == [9, 8]
    # A number sign begins no comment.
    assert triplets(read_ratings(write(tmp_path, "u.data", "#1\tx#y\t3\n"))) == {("#1", "x#y"): 3.0}


def test_large_ids_stay_apart(tmp_path):
    """Ids of 64 bits, such as those of social networks, are not exact as floating numbers."""
    big = 2**53
    ratings = read_ratings(write(tmp_path, "u.data", f"{big}\t1\t3\t1\n{big + 1}\t1\t4\t2\n"))
    assert triplets(ratings) == {(big, 1): 3.0, (big + 1, 1): 4.0}


def test_digits_are_numbers_whatever_the_other_columns(tmp_path):
    """Numbers with leading zeros are these numbers, beside ratings that are whole or not."""
    for rating in ("3", "3.5"):
        ratings = read_ratings(write(tmp_path, "u.data", f"007\t1\t{rating}\n8\t1\t4\n"))
        assert triplets(ratings) == {(7, 1): float(rating), (8, 1): 4.0}
        with pytest.raises(ValueError, match="user 7 and item 1"):
            read_ratings(write(tmp_path, "u.data", f"007\t1\t{rating}\n7\t1\t4\n"))


def test_large_whole_numbers_and_text_like_numbers_stay_apart(tmp_path):
    ratings = read_ratings(write(tmp_path, "u.data", f"{2**63 + 1}\t1_0\t3\t1\n{2**63 + 5}\t10\t4\t2\n"))
    assert triplets(ratings) == {(2**63 + 1, "1_0"): 3.0, (2**63 + 5, "10"): 4.0}
    ratings = read_ratings(write(tmp_path, "u.data", "a\0\t1\t3\t1\na\t1\t4\t2\n"))
    assert triplets(ratings) == {("a\0", 1): 3.0, ("a", 1): 4.0}


def test_ids_that_pandas_wrote_as_floats(tmp_path):
    head = "userId,movieId,rating\n"
    ratings = read_ratings(write(tmp_path, "ratings.csv", f"{head}1.0,7,3\n12.0,8,4\n"))
    assert triplets(ratings) == {(1, 7): 3.0, (12, 8): 4.0}
    ratings = read_ratings(write(tmp_path, "ratings.csv", f"{head}1.5,7,3\n12.0,8,4\n"))
    assert triplets(ratings) == {("1.5", 7): 3.0, ("12.0", 8): 4.0}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "latin-1"])
@pytest.mark.parametrize("name", ["u.data", "ratings.csv"])
def test_encodings(tmp_path, name, encoding):
    text = FILES[name].encode(encoding)
    ratings = read_ratings(write(tmp_path, name, text))
    assert triplets(ratings) == {e[:2]: e[2] for e in ENTRIES}
    assert ratings.user_ids.values.dtype.kind == "i"
    named = FILES[name].replace("186", "è").replace("196", "é")
    assert set(read_ratings(write(tmp_path, name, named.encode(encoding))).user_ids.values) == {"è", "é"}


def test_dates_are_times(tmp_path):
    head = "userId,movieId,rating,timestamp\n"
    text = f"{head}1,7,3,2020-01-31 12:00:00\n2,7,3,2020-01-31T13:00:00+02:00\n3,7,3,2020-02-01\n"
    ratings = read_ratings(write(tmp_path, "ratings.csv", text))
    expected = np.array(["2020-01-31T12:00", "2020-01-31T11:00", "2020-02-01"], "datetime64[us]")
    np.testing.assert_array_equal(ratings.timestamps, expected)
    train, test = completion.train_test_split(ratings, test_size=1, by="time")
    assert triplets(test) == {(3, 7): 3.0}
    assert len(train) == 2


def test_one_long_cell_takes_its_own_room_alone(tmp_path):
    head, n, long = "userId,movieId,rating,comment\n", 2000, "x" * 200_000
    text = head + "".join(f"{u},1,3,{long if u == 5 else 'good'}\n" for u in range(n))
    path = write(tmp_path, "ratings.csv", text)
    tracemalloc.start()
    assert len(read_ratings(path)) == n
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6  # of one width, cells would take 1.6 GB


def test_aggregate(tmp_path):
    path = write(tmp_path, "u.data", "1\t1\t3\t5\n1\t1\t4\t2\n")
    with pytest.raises(ValueError, match=r"u\.data.*aggregate"):
        read_ratings(path)
    assert triplets(read_ratings(path, aggregate="mean")) == {(1, 1): 3.5}
    assert triplets(read_ratings(path, aggregate="last")) == {(1, 1): 3.0}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("u.data", "", "no ratings"),
        ("u.data", "\n\n", "no ratings"),
        ("ratings.csv", "", "no ratings"),
        ("ratings.csv", "userId,movieId,rating\n", "no ratings"),
        ("ratings.csv", "userId\n1\n", "two columns"),
        ("u.data", "1\n", "columns"),
        ("u.data", "1234\n", "two columns"),
        ("u.data", "1\t2\t3\t4\t5\n", "columns"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", "4 columns user, .*got 3 in line 2"),
        ("u.data", "1\t2\t3\n1\t2\t3\t4\n", "3 columns .*got 4 in line 2"),
        ("ratings.dat", "1::2::3::4\n1::3::4\n", "got 3 in line 2"),
        ("ratings.csv", "userId,movieId,rating\n1,2\n", "columns"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n1,2,3,4\n", "got 4 in line 3"),
        ("ratings.csv", "movieId,rating\n1,2\n", "user"),
        ("ratings.csv", "userId,rating\n1,2\n", "item"),
        ("u.data", "1\t2\tgood\t4\n", "good"),
        ("u.data", "1\t2\tinf\t4\n", "finite"),
        ("u.data", "1\t2\tnan\t4\n", "finite"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n1,3,\n", "ratings.csv"),
        ("u.data", "1\t2\t3\tlately\n", "timestamp.*ISO dates.*'lately' in line 1"),
        ("u.data", "1\t2\t3\t2020-01-01\n\n1\t3\t3\tlately\n", "timestamp.*ISO dates.*'lately' in line 3"),
        ("u.data", "1\t2\t3\t5\n\n1\t3\t3\tnan\n", "timestamp.*'nan' in line 3"),
        ("u.data", "1\t2\t3\t2020-01-01\n1\t3\t3\tNaT\n", "timestamp.*'NaT' in line 2"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n1,3,3,\n", "timestamp.*'' in line 3"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n1,3,1_0\n", "rating.*'1_0' in line 3"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n\n,3,1\n", "'' as userId in line 4"),
        ("u.data", "nan\t2\t3\t4\n1\t2\t3\t4\n", "users"),
        ("ratings.parquet", "1,2,3\n", "not a Parquet file"),
        ("ratings.feather", "1,2,3\n", "not an Arrow file"),
    ],
)
def test_malformed_files(tmp_path, name, text, words):
    path = write(tmp_path, name, text)
    with pytest.raises(ValueError, match=words) as caught:
        read_ratings(path)
    assert name in str(caught.value)


def test_missing_files(tmp_path):
    for read in (read_ratings, read_movielens_items):
        with pytest.raises(FileNotFoundError, match=r"none\.csv"):
            read(tmp_path / "none.csv")


def flags(*on):
    return "|".join("1" if i in on else "0" for i in range(19))


ITEM_FILES = {
    "u.item": (
        f"1|Toy Story (1995)|01-Jan-1995||http://x|{flags(3, 4, 5)}\n"
        f"2|Les Misérables (1995)|01-Jan-1995||http://x|{flags(8)}\n"
    ),
    "movies.dat": "1::Toy Story (1995)::Animation|Children's|Comedy\n2::Les Misérables (1995)::Drama\n",
    "movies.csv": (
        'movieId,title,genres\n1,Toy Story (1995),Animation|Children\'s|Comedy\n"2","Les Misérables (1995)",Drama\n'
    ),
    "ml.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n2\tLes Misérables\t1995\tDrama\n"
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("name", ITEM_FILES)
def test_items(tmp_path, name, encoding):
    items = read_movielens_items(write(tmp_path, name, ITEM_FILES[name].encode(encoding)))
    assert items.ids.values.tolist() == [1, 2]
    assert items.titles.tolist() == ["Toy Story (1995)", "Les Misérables (1995)"]
    assert items.genres == [("Animation", "Children's", "Comedy"), ("Drama",)]
    assert items.titles_of(np.array([2, 9, 1])) == ["Les Misérables (1995)", "9", "Toy Story (1995)"]


@pytest.mark.parametrize("name", ITEM_FILES)
def test_items_of_windows(tmp_path, name):
    """Quotes and dots that Latin 1 does not have are in one byte, of which some would end a line."""
    titled = ITEM_FILES[name].replace("Les Misérables", "Les Misérables… “à”")
    for encoding in ("cp1252", "utf-8-sig", "utf-16"):
        items = read_movielens_items(write(tmp_path, name, titled.encode(encoding)))
        assert items.ids.values.tolist() == [1, 2]
        assert items.titles.tolist()[1] == "Les Misérables… “à” (1995)"


def test_titles_with_commas_and_quotes(tmp_path):
    text = (
        "movieId,title,genres\n"
        '11,"American President, The (1995)",Comedy|Drama\n'
        '7789,"11\'09""01 - September 11 (2002)",Drama\n'
        '5,"Net, The ""a|b"" (1995)",(no genres listed)\n'
    )
    items = read_movielens_items(write(tmp_path, "movies.csv", text))
    expected = ["American President, The (1995)", "11'09\"01 - September 11 (2002)", 'Net, The "a|b" (1995)']
    assert items.titles.tolist() == expected
    assert items.genres[0] == ("Comedy", "Drama")
    assert items.titles_of(np.array([5])) == expected[2:]


def test_titles_beside_missing_recommendations(tmp_path):
    items = completion.Items(completion.Labels(["x", "y"]), np.array(["Ex", "Why"], object), [(), ()])
    ratings = completion.Ratings.from_triplets(["a", "a", "b"], ["x", "y", "y"], [1, 2, 3])
    fitted = completion.fit(completion.ExplicitALS(2), ratings, key=jax.random.key(0), n_epochs=1)
    rows = [(r["user"], r["item"], r["title"]) for r in command.rows_of(fitted, 2, True, items)]
    assert rows == [("b", "x", "Ex")]


def test_items_without_a_year(tmp_path):
    text = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n3\tunknown\t\tunknown\n"
    items = read_movielens_items(write(tmp_path, "ml.item", text))
    assert items.titles.tolist() == ["unknown"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("movies.tsv", "1\tA\tDrama\n"),
        ("movies.csv", "movieId,title,genres\n1,A\n"),
        ("movies.dat", "1,A,Drama\n"),
        ("movies.csv", "movieId,title,genres\n"),
        ("u.item", "1,A,Drama\n"),
    ],
)
def test_files_that_are_none_of_items(tmp_path, name, text):
    with pytest.raises(ValueError, match=name):
        read_movielens_items(write(tmp_path, name, text))


def test_blank_lines_at_the_end_of_items(tmp_path):
    for name, text in ITEM_FILES.items():
        assert len(read_movielens_items(write(tmp_path, name, text + "\n")).ids) == 2


def test_movielens_100k():
    try:
        ratings_file, items_file = completion.movielens_100k()
    except FileNotFoundError as error:
        assert "recbole" in str(error)  # noqa: PT017
        pytest.skip("recbole is not installed")
    ratings = read_ratings(ratings_file)
    assert (len(ratings), *ratings.shape) == (100_000, 943, 1682)
    assert sorted(set(ratings.values.tolist())) == [1, 2, 3, 4, 5]
    assert np.isclose(ratings.values.mean(), 3.52986)
    items = read_movielens_items(items_file)
    assert len(items.ids) == 1682
    assert items.titles_of(np.array([1])) == ["Toy Story (1995)"]
