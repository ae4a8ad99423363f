"""stllava.reading: hostile and damaged files give one problem or one error, never more."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stllava.errors import DataError
from stllava.reading import archives, parquet, pickles, table
from stllava.reading import json as json_files

BAD_RECORDS = [
    ('{"a": NaN}', "NaN is not a JSON number"),
    ('{"a": -Infinity}', "-Infinity is not"),
    ('{"a": 1e999}', "1e999 is too large"),
    ('{"a": 1, "a": 2}', "key 'a' twice"),
    ('{"a": {"b": 1, "b": 1}}', "key 'b' twice"),
    ('{"a": "\\ud83d"}', "half a surrogate pair"),
    ('{"a": ' + "9" * 5000 + "}", "not JSON"),
]


def read(path: Path, content: str | bytes) -> list:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(json_files.read_entries(path))


@pytest.mark.parametrize(("bad", "reason"), BAD_RECORDS)
@pytest.mark.parametrize("is_list", [True, False])
def test_a_record_that_cannot_be_trusted_is_a_problem_between_good_ones(
    tmp_path: Path, bad: str, reason: str, is_list: bool
):
    text = f'[{{"a": 1}}, {bad}, {{"a": 2}}]' if is_list else f'{{"a": 1}}\n{bad}\n{{"a": 2}}'
    first, wrong, last = read(tmp_path / "d.json", text)
    assert (first.value, last.value) == ({"a": 1}, {"a": 2})
    assert wrong.value is None
    assert reason in wrong.problem
    assert wrong.place == ("d.json[1]" if is_list else "d.json:2")


def test_bytes_that_are_not_utf_8_cost_one_record(tmp_path: Path):
    for content in (b'[{"a": "\xff"}, 2]', b'{"a": "\xff"}\n2'):
        wrong, good = read(tmp_path / "d.json", content)
        assert "not UTF-8" in wrong.problem
        assert good.value == 2


def test_byte_order_mark_crlf_blank_lines_and_u_2028_are_no_trouble(
    tmp_path: Path,
):
    lines = read(tmp_path / "d.jsonl", '\ufeff{"a": "x\u2028y\u0085z"}\r\n\r\n{"a": 2}\r\n')
    assert [(line.place, line.value["a"]) for line in lines] == [
        ("d.jsonl:1", "x\u2028y\u0085z"),
        ("d.jsonl:3", 2),
    ]
    listed = read(tmp_path / "d.json", '\ufeff \r\n[ 1 ,\r\n "\u2028" ]\r\n')
    assert [entry.value for entry in listed] == [1, "\u2028"]


@pytest.mark.parametrize(
    "content",
    ["[1, 2", "[1 2]", "[1,]", "[1] 2", '[{"a": ', '["x', "[" * 100_000, "[1}", "[tru]"],
)
def test_a_list_that_does_not_end_as_one_is_one_error(tmp_path: Path, content: str):
    with pytest.raises(DataError, match=r"d\.json: ") as error:
        read(tmp_path / "d.json", content)
    assert "\n" not in str(error.value)


def test_a_deeply_nested_line_is_one_problem(tmp_path: Path):
    (entry,) = read(tmp_path / "d.jsonl", '{"a":' * 100_000)
    assert entry.problem == "not JSON (nested too deeply)"


def test_utf_16_and_missing_files_are_errors(tmp_path: Path):
    with pytest.raises(DataError, match="UTF-16"):
        read(tmp_path / "d.json", "[1]".encode("utf-16"))
    with pytest.raises(DataError, match="No such file"):
        list(json_files.read_entries(tmp_path / "none.json"))


@pytest.mark.parametrize("content", ["", "  \n", "[]", " [ ] "])
def test_nothing_gives_nothing(tmp_path: Path, content: str):
    assert read(tmp_path / "d.json", content) == []


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON_VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]))
def test_lists_read_in_pieces_of_any_size_are_what_was_written(
    tmp_path: Path, values: list, chunk: int, indent: int | None
):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(values, ensure_ascii=False, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "CHUNK", chunk)
        assert [entry.value for entry in json_files.read_entries(path)] == values


@pytest.mark.parametrize("megabytes", [12, pytest.param(200, marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_the_list(tmp_path: Path, megabytes: int):
    path = tmp_path / "big.json"
    record = json.dumps({"id": "r", "conversations": [{"value": "word " * 400}]})
    number = megabytes * 2**20 // (len(record) + 2)
    with path.open("w") as file:
        file.write("[" + record)
        for _ in range(number - 1):
            file.write(",\n" + record)
        file.write("]")
    tracemalloc.start()
    try:
        assert sum(not entry.problem for entry in json_files.read_entries(path)) == number
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
        path.unlink()


def test_records_beyond_the_cap_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_files, "MAX_RECORD", 1000)
    monkeypatch.setattr(json_files, "CHUNK", 100)
    long = json.dumps("x" * 2000)
    wrong, good = read(tmp_path / "d.jsonl", f"{long}\n1")
    assert "longer than 1,000 bytes" in wrong.problem
    assert (good.place, good.value) == ("d.jsonl:2", 1)
    with pytest.raises(DataError, match="record 0"):
        read(tmp_path / "d.json", f"[{json.dumps('x' * 5000)}]")


def rows(path: Path, content: str | bytes) -> list:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(table.read_rows(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "a,b\n1,x\n"),
        ("t.csv", "\ufeffa;b\r\n1;x\r\n"),
        ("t.csv", "a,b,,\n1,x,,\n,,,\n"),
        ("t.csv", 'a,b\n\n"1","x"\n'),
        ("t.tsv", "a\tb\n1\tx\n"),
        ("t.csv", "a\tb\n1\tx\n".encode("utf-16")),
        ("t.json", '[{"a": "1", "b": "x"}]'),
        ("t.jsonl", '{"a": "1", "b": "x"}\n'),
    ],
)
def test_a_table_in_any_form_gives_the_same_row(tmp_path: Path, name: str, content: str | bytes):
    (row,) = rows(tmp_path / name, content)
    assert row.value == {"a": "1", "b": "x"}
    assert table.columns_of(tmp_path / name) == ("a", "b")


def test_cells_may_hold_delimiters_quotes_and_line_ends(tmp_path: Path):
    (row,) = rows(tmp_path / "t.csv", 'a,b\n"x, ""y""\nz",2\n')
    assert row.value == {"a": 'x, "y"\nz', "b": "2"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1", "1 cells for 2"),
        ("1,2,3", "3 cells for 2"),
        ('"1"x,2', "not a row"),
        ("\x00" * 200_000 + ",2", "not a row"),
    ],
)
def test_a_bad_row_is_a_problem_between_good_ones(tmp_path: Path, line: str, reason: str):
    first, wrong, last = rows(tmp_path / "t.csv", f"a,b\n1,2\n{line}\n3,4\n")
    assert (first.value["a"], last.value["a"]) == ("1", "3")
    assert wrong.place == "t.csv:3"
    assert reason in wrong.problem


def test_a_latin_1_cell_is_a_problem_not_a_guess(tmp_path: Path):
    (row,) = rows(tmp_path / "t.csv", "a\nn\xf3dulo\n".encode("latin-1"))
    assert row.problem == "not UTF-8"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,a\n1,2\n", "column 'a' twice"),
        ("t.csv", "", "no line that names the columns"),
        ("t.xlsx", "PK", "not a table by its name"),
        ("t.parquet", "PAR1", "cannot be read as Parquet"),
        ("t.csv", "a" * 2**21, "a line over"),
        ("t.csv", "a" * 200_000, "does not name columns"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "damaged UTF-16"),
    ],
)
def test_a_file_that_is_no_table_is_one_error(tmp_path: Path, name: str, content, message: str):
    with pytest.raises(DataError, match=message) as error:
        rows(tmp_path / name, content)
    assert "\n" not in str(error.value)


def test_parquet_rows_come_one_by_one_over_row_groups(tmp_path: Path):
    path = tmp_path / "t.parquet"
    image = {"bytes": b"\x89PNG", "path": None}
    values = [{"image": image, "question": f"q{n}"} for n in range(200)]
    pq.write_table(pa.Table.from_pylist(values), path, row_group_size=70)
    entries = list(parquet.read_rows(path))
    assert [entry.value for entry in entries] == values
    assert entries[199].place == "t.parquet[199]"
    assert parquet.columns_of(path) == ("image", "question")
    assert parquet.num_rows(path) == 200


def test_a_parquet_cell_that_is_not_utf_8_is_one_problem(tmp_path: Path):
    path = tmp_path / "t.parquet"
    binary = pa.array([b"ok", b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(2, *binary.buffers()[1:])
    pq.write_table(pa.table({"q": text}), path)
    good, wrong = parquet.read_rows(path)
    assert good.value == {"q": "ok"}
    assert "not a row" in wrong.problem


def test_plain_pickles_of_every_protocol_are_read(tmp_path: Path):
    value = [{"image": "train_1", "question": "où?", "n": [1, -(2**70), 1.5, True, None, (1,)]}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps(value, protocol))
        assert pickles.load(tmp_path / "d.pkl") == value


class Marker:
    """Unpickled by `pickle.load`, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_raises_and_runs_nothing(tmp_path: Path):
    marker = tmp_path / "marker"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps([{"image": "x"}, Marker(marker)], protocol)
        (tmp_path / "d.pkl").write_bytes(data)
        with pytest.raises(DataError, match="a pickle with code in it"):
            pickles.load(tmp_path / "d.pkl")
        assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()  # it would have worked


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1])[:-2],
        pickle.dumps({1, 2}),
        pickle.dumps(b"bytes"),
        b"\x80\x04Pid\n.",  # a persistent id
        b"\x80\x02]r\xff\xff\xff\xff.",  # memo index of four billion
        b"cos\nsystem\n.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"((((" * 10_000,
    ],
)
def test_anything_but_plain_data_is_one_error(tmp_path: Path, data: bytes):
    (tmp_path / "d.pkl").write_bytes(data)
    with pytest.raises(DataError, match=r"d\.pkl") as error:
        pickles.load(tmp_path / "d.pkl")
    assert "\n" not in str(error.value)


def make_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def make_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            file.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def tar_member(name: str, size: int = 1, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def assert_refused(archive: Path, message: str, limits: archives.Limits | None = None) -> None:
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError, match=message) as error:
        archives.unpack(archive, archive.parent / "into", limits=limits or archives.Limits())
    assert "\n" not in str(error.value)
    assert sorted(archive.parent.rglob("*")) == before


def test_plain_archives_are_unpacked(tmp_path: Path):
    names = {"imgs/a.jpg": b"a", "imgs/deep/b.jpg": b"b" * 10_000, "empty/": b""}
    assert archives.unpack(make_zip(tmp_path / "d.zip", **names), tmp_path / "zip") == 2
    members = [tar_member("imgs/a.jpg"), tar_member("imgs", 0, type=tarfile.DIRTYPE)]
    assert archives.unpack(make_tar(tmp_path / "d.tgz", *members), tmp_path / "tar") == 1
    assert (tmp_path / "zip/imgs/deep/b.jpg").read_bytes() == b"b" * 10_000
    assert (tmp_path / "zip/empty").is_dir()
    assert (tmp_path / "tar/imgs/a.jpg").read_bytes() == b"x"


EVIL_NAMES = ["/etc/x", "../x", "a/../../x", "C:\\x", "c:x", "..\\x", "\\\\host\\x", "", " "]


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_member_that_leaves_the_folder_refuses_the_archive(tmp_path: Path, name: str):
    if name.strip():
        assert_refused(make_zip(tmp_path / "d.zip", **{"ok.jpg": b"x", name: b"x"}), "refused")
    assert_refused(
        make_tar(tmp_path / "d.tgz", tar_member("ok.jpg"), tar_member(name)), "refused|damaged"
    )


def test_a_nul_in_a_zip_name_refuses_it(tmp_path: Path):
    archive = make_zip(tmp_path / "d.zip", **{"aNb.jpg": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"aNb", b"a\0b"))
    assert_refused(archive, "NUL")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_refuse_a_tar(tmp_path: Path, kind: bytes):
    member = tar_member("a", 0, type=kind, linkname="/etc/passwd")
    assert_refused(make_tar(tmp_path / "d.tgz", member), "a link or a device")


def test_a_link_refuses_a_zip(tmp_path: Path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert_refused(tmp_path / "d.zip", "a link or a device")


def test_a_bomb_is_stopped_while_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "RATIO_FLOOR", 2**20)
    bomb = make_zip(tmp_path / "d.zip", **{"zeros.png": bytes(16 * 2**20)})
    assert bomb.stat().st_size < 2**20
    assert_refused(bomb, "more than its size allows")


def test_size_and_number_of_members_have_caps(tmp_path: Path):
    archive = make_zip(tmp_path / "d.zip", **{f"{n}.png": b"x" * 100 for n in range(20)})
    assert_refused(archive, "more than its size", archives.Limits(total_bytes=1000))
    assert_refused(archive, "more than 10 members", archives.Limits(entries=10))


def test_damaged_archives_are_one_error(tmp_path: Path):
    archive = make_zip(tmp_path / "d.zip", **{"a.png": os.urandom(5000)})
    data = archive.read_bytes()
    archive.write_bytes(data[:100] + b"\0" * 50 + data[150:])
    assert_refused(archive, "damaged")
    (tmp_path / "text.zip").write_text("no archive")
    assert_refused(tmp_path / "text.zip", "neither a ZIP nor a TAR")
    assert_refused(tmp_path / "none.zip", "cannot be unpacked|neither")


def test_an_archive_never_overwrites(tmp_path: Path):
    (tmp_path / "into").mkdir()
    with pytest.raises(DataError, match="is there already"):
        archives.unpack(make_zip(tmp_path / "d.zip", a=b"x"), tmp_path / "into")
