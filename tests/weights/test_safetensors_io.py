from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_har.errors import WeightsError
from lightning_har.weights.safetensors_io import load_safetensors, read_metadata, save_safetensors


@pytest.fixture
def tensors():
    return {
        "weight": torch.randn(5, 6, 7),
        "transposed": torch.randn(3, 4).t(),
        "codes": torch.arange(10, dtype=torch.uint8),
        "scalar": torch.tensor(3),
        "trained": torch.ones(2, requires_grad=True),
    }


def test_round_trip_with_metadata(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save_safetensors(tensors, path, {"format": "1", "classes": "a,b"})
    loaded = load_safetensors(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert loaded["codes"].dtype == torch.uint8
    assert read_metadata(path) == {"format": "1", "classes": "a,b"}
    save_safetensors(tensors, path)
    assert read_metadata(path) == {}


def test_cut_anywhere_is_a_clear_error(tmp_path, tensors):
    whole, path = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save_safetensors(tensors, whole)
    data = whole.read_bytes()
    for cut in np.linspace(0, len(data) - 1, 20).astype(int):
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsError, match=rf"cut\.safetensors \({cut:,} bytes\) is damaged"):
            load_safetensors(path)
        with pytest.raises(WeightsError, match=r"cut\.safetensors"):
            read_metadata(path)


def test_flipped_header_bytes_never_escape_as_another_error(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save_safetensors(tensors, path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, 400, 200):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            load_safetensors(path)
        except WeightsError:
            refused += 1
    assert refused > 80


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(WeightsError, match="there is no such file"):
        load_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="there is no such file"):
        read_metadata(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save_safetensors(tensors, path)
    before = path.read_bytes()
    shared = torch.zeros(4)
    with pytest.raises(WeightsError, match="cannot be written"):
        save_safetensors({"a": shared, "b": shared}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.raises(WeightsError, match="cannot be written"):
        save_safetensors(tensors, tmp_path / "absent" / "model.safetensors")
