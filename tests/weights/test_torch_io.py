from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lightning_har.errors import WeightsError
from lightning_har.weights.safetensors_io import load_safetensors
from lightning_har.weights.torch_io import load_state_dict

OLD = {"_use_new_zipfile_serialization": False}


@pytest.fixture
def state():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old format"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state"])
def test_reads_plain_and_wrapped_state_dicts(tmp_path, state, options, wrapper):
    path = tmp_path / "net.pth"
    content = {wrapper: state, "meta": {"epoch": 3, "classes": ["a"]}} if wrapper else state
    torch.save(content, path, **options)
    assert same(load_state_dict(path), state)


def test_a_zip_file_is_mapped_not_copied(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"w": torch.ones(1000)}, path)
    loaded = load_state_dict(path)["w"]
    loaded.zero_()
    assert load_state_dict(path)["w"].sum() == 1000


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("name", ["net.pth", "model.safetensors", "weights.bin"])
@pytest.mark.parametrize("kind", ["zip", "old format", "bare pickle"])
def test_a_malicious_pickle_executes_nothing(tmp_path, state, kind, name):
    path, target = tmp_path / name, tmp_path / "owned"
    content = {"state_dict": state, "hook": Malicious(target)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps({"hook": Malicious(target)}))
    else:
        torch.save(content, path, **(OLD if kind == "old format" else {}))
    with pytest.raises(WeightsError, match=r"(?s)is refused: it holds more than tensors"):
        load_state_dict(path)
    with pytest.raises(WeightsError, match="is a PyTorch file"):
        load_safetensors(path)
    assert not target.exists()
    if kind != "bare pickle":  # that the file would have done it, were it trusted
        with path.open("rb") as file:
            torch.load(file, weights_only=False)
        assert target.exists()


def test_a_whole_module_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r"is refused.*torch\.nn\.modules\.linear\.Linear"):
        load_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ([torch.ones(3)], "holds a list"),
        ({}, "holds a dict"),
        ({"epoch": 3, "w": torch.ones(1)}, "'epoch' is a int, not a tensor"),
    ],
)
def test_other_contents_are_named(tmp_path, content, message):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        load_state_dict(path)


@pytest.mark.parametrize("options", [{}, OLD], ids=["zip", "old format"])
def test_cut_anywhere_is_a_clear_error(tmp_path, state, options):
    whole, path = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save(state, whole, **options)
    data = whole.read_bytes()
    for cut in np.linspace(0, len(data) - 1, 20).astype(int):
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            load_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"no weights", b"<html>"])
def test_another_kind_of_file(tmp_path, content):
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"net\.pth is no PyTorch file, whatever its name; give one"):
        load_state_dict(path)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        load_state_dict(tmp_path / "absent.pth")
