"""A file is the old one or the whole new one."""

import pytest

from lightning_har._files import whole_file


def test_a_file_that_was_written_takes_its_name(tmp_path):
    with whole_file(tmp_path / "a.csv") as part:
        part.write_text("half")
        assert part.suffix == ".csv"
        assert not (tmp_path / "a.csv").exists()
        part.write_text("whole")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "whole")]


def test_a_write_that_failed_leaves_what_was_there(tmp_path):
    (tmp_path / "a.csv").write_text("old")

    def fail():
        with whole_file(tmp_path / "a.csv") as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "old")]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as error, whole_file(tmp_path / "gone" / "a.csv") as part:
        part.write_text("x")
    assert error.value.filename == str(tmp_path / "gone" / "a.csv")


def test_two_writers_at_once_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a") as one, whole_file(tmp_path / "a") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "1")]  # the last to end
