import pytest

from lightning_har.types import to_class_names


def test_class_names_are_a_list_or_one_by_head():
    assert to_class_names(None) is None
    assert to_class_names(["clap", 2]) == ("clap", "2")
    assert to_class_names({"verb": ["clap"]}) == {"verb": ("clap",)}
    for told in ("clap", {"verb": "clap"}, 3):
        with pytest.raises(TypeError):
            to_class_names(told)
