"""Tables in zip archives are read as those beside them."""

import zipfile
from pathlib import Path

import pytest

from model.training.table_file import OwnDataError, open_table

TEXT = "a,b\n1,x\n2,\n3,z\n"


def archive(folder: Path, members: dict[str, str]) -> Path:
    """A zip as people make it, compressed."""
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in members.items():
            opened.writestr(name, text)
    return path


def test_a_member_is_read_like_a_file(tmp_path: Path) -> None:
    """The same cells from either, without unpacking."""
    (tmp_path / "plain.csv").write_text(TEXT)
    packed = archive(tmp_path, {"2013/2013-04-10.csv": TEXT})
    plain = open_table(tmp_path / "plain.csv")
    member = open_table(packed / "2013/2013-04-10.csv", packed)
    assert member.names == plain.names == ("a", "b")
    (first,), (second,) = (list(table.batches(["b", "a"])) for table in (plain, member))
    assert first[1].to_pydict() == second[1].to_pydict() == {"b": ["x", None, "z"], "a": ["1", "2", "3"]}


def test_a_large_member_comes_in_blocks(tmp_path: Path) -> None:
    """Rows keep their numbers from block to block, and leaving early is no error."""
    n = 400_000
    packed = archive(tmp_path, {"x.csv": "a,b\n" + "".join(f"{i},some words\n" for i in range(n))})
    blocks = list(open_table(packed / "x.csv", packed).batches(["a"]))
    assert len(blocks) > 1
    assert [first for first, _ in blocks] == [int(block["a"][0].as_py()) for _, block in blocks]
    assert blocks[-1][0] + blocks[-1][1].num_rows == n
    assert next(open_table(packed / "x.csv", packed).batches(["a"]))[0] == 0


def test_a_ragged_member_is_refused_with_its_row(tmp_path: Path) -> None:
    """Archive, member and row are named."""
    packed = archive(tmp_path, {"day.csv": "a,b\n1,2\n3\n"})
    with pytest.raises(OwnDataError, match=r"data\.zip/day\.csv, row 3: has 1 cells, the header has 2"):
        list(open_table(packed / "day.csv", packed).batches(["a"]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no zip", "cannot be read: File is not a zip file"), (None, "cannot be read: .*no item named 'day.csv'")],
)
def test_a_broken_archive_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """What is no zip, and a member that is not there."""
    packed = archive(tmp_path, {"other.csv": TEXT})
    if content is not None:
        packed.write_bytes(content)
    with pytest.raises(OwnDataError, match=reason):
        open_table(packed / "day.csv", packed)
