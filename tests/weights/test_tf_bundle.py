from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import bundle_writer as bw
import numpy as np
import pytest

from lightning_har.errors import WeightsError
from lightning_har.weights.crc32c import crc32c, masked_crc32c
from lightning_har.weights.tf_bundle import read_bundle, read_index

SHARED = Path(__file__).parents[3] / "shared" / "data" / "annotations" / "kinetics" / "i3d_checkpoints"


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    made = {f"net/layer_{i}/weight": rng.normal(size=(3, i + 1, 2)).astype(np.float32) for i in range(12)}
    made["net/big"] = rng.normal(size=(50, 70)).astype(np.float32)
    made["step"] = np.array(7, np.int64)
    made["empty"] = np.zeros((0, 4), np.float32)
    made["flags"] = np.array([True, False, True])
    made["z_after_odd_bytes"] = np.arange(5.0)
    return made


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.mark.parametrize("num_shards", [1, 3])
def test_reads_what_was_written(prefix, tensors, num_shards):
    bw.write_bundle(prefix, tensors, num_shards)
    read = read_bundle(prefix)
    assert list(read) == sorted(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        assert read[name].flags.aligned
        np.testing.assert_array_equal(read[name], array, err_msg=name)
    assert list(read_bundle(prefix, names=["step"])) == ["step"]


def test_writing_to_an_array_leaves_the_file_alone(prefix, tensors):
    bw.write_bundle(prefix, tensors)
    read_bundle(prefix)["net/big"][:] = 0
    np.testing.assert_array_equal(read_bundle(prefix)["net/big"], tensors["net/big"])


def test_a_flipped_bit_in_the_data_names_the_tensor(prefix, tensors):
    bw.write_bundle(prefix, tensors)
    entry = read_index(f"{prefix}.index")["net/layer_3/weight"]
    path = Path(f"{prefix}.data-00000-of-00001")
    data = bytearray(path.read_bytes())
    data[entry.offset + 5] ^= 4
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="tensor 'net/layer_3/weight' is damaged"):
        read_bundle(prefix)
    unverified = read_bundle(prefix, verify=False)["net/layer_3/weight"]
    assert (unverified != tensors["net/layer_3/weight"]).sum() == 1
    assert list(read_bundle(prefix, names=["net/big"])) == ["net/big"]


def test_data_missing_or_cut_short(prefix, tensors):
    bw.write_bundle(prefix, tensors)
    path = Path(f"{prefix}.data-00000-of-00001")
    data = path.read_bytes()
    for cut in np.linspace(0, len(data) - 1, 20).astype(int):
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsError, match="cut short: tensor"):
            read_bundle(prefix)
    path.unlink()
    with pytest.raises(WeightsError, match="must lie beside its index"):
        read_bundle(prefix)
    with pytest.raises(WeightsError, match="has no tensor absent; it has 17 others"):
        read_bundle(prefix, names=["absent"])


def test_index_cut_anywhere_is_a_clear_error(prefix, tensors):
    bw.write_bundle(prefix, tensors)
    path = Path(f"{prefix}.index")
    data = path.read_bytes()
    for cut in np.linspace(0, len(data) - 1, 20).astype(int):
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsError, match=r"model\.ckpt\.index"):
            read_index(path)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        read_index(path)


def test_flipped_bytes_of_the_index_are_noticed(prefix, tensors):
    bw.write_bundle(prefix, tensors)
    path = Path(f"{prefix}.index")
    data = path.read_bytes()
    expected = read_index(path)
    rng = np.random.default_rng(1)
    refused = 0
    for at in rng.integers(0, len(data), 300):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            assert read_index(path) == expected  # metaindex and padding do not matter
        except WeightsError:
            refused += 1
    assert refused > 250


def test_nonsense_under_valid_checksums_is_refused_or_read(prefix, tensors):
    """Blocks whose CRC-32C is right and whose content is not: the parser itself must hold."""
    good = [(b"", bw.header()), *((n.encode(), bw.entry(a, 0, 0)) for n, a in sorted(tensors.items()))]
    path = Path(f"{prefix}.index")
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(300):
        items = list(good)
        which = int(rng.integers(len(items)))
        value = bytearray(items[which][1])
        for at in rng.integers(0, len(value), 2):
            value[at] ^= 1 << int(rng.integers(8))
        items[which] = (items[which][0], bytes(value[: rng.integers(1, len(value) + 1)]))
        path.write_bytes(bw.table(items))
        try:
            read_index(path)
        except WeightsError:
            refused += 1
    assert refused > 100


def test_nonsense_blocks_under_valid_checksums(prefix, monkeypatch):
    items = [(b"", bw.header()), (b"a", bw.entry(np.zeros(3, np.float32), 0, 0))]
    honest = bw.block
    rng = np.random.default_rng(3)
    path = Path(f"{prefix}.index")
    refused = 0
    for _ in range(300):

        def spoilt(items):
            out = bytearray(honest(items))
            out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
            return bytes(out)

        monkeypatch.setattr(bw, "block", spoilt)
        path.write_bytes(bw.table(items))
        try:
            read_index(path)
        except WeightsError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"compression": 1}, "is compressed"),
        ({"endianness": 1}, "big-endian"),
        ({"shard": 4}, "data file 4 of 1"),
        ({"dtype": 77}, "data type 77"),
        ({"size": 11}, "float32 tensor of shape .3,. has 11 bytes"),
    ],
)
def test_what_is_not_read_is_named(prefix, content, message):
    entry = bw.entry(np.zeros(3, np.float32), content.get("shard", 0), 0)
    entry += bw.field(1, content["dtype"]) if "dtype" in content else b""
    entry += bw.field(5, content["size"]) if "size" in content else b""
    items = [(b"", bw.header(1, content.get("endianness", 0))), (b"a", entry)]
    Path(f"{prefix}.index").write_bytes(bw.table(items, compression=content.get("compression", 0)))
    with pytest.raises(WeightsError, match=message):
        read_index(f"{prefix}.index")


def test_strings_are_listed_and_left_out(prefix):
    text = bw.field(1, 7) + bw.field(2, b"") + bw.field(5, 3)
    number = bw.entry(np.zeros(1, np.float32), 0, 3)
    Path(f"{prefix}.index").write_bytes(bw.table([(b"", bw.header()), (b"graph", text), (b"w", number)]))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(bytes(7))
    assert read_index(f"{prefix}.index")["graph"].dtype == "string"
    assert list(read_bundle(prefix)) == ["w"]
    with pytest.raises(WeightsError, match="tensor 'graph' is string"):
        read_bundle(prefix, names=["graph"])


def test_crc32c_check_value_and_long_inputs():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every CRC catalogue
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    # A long input in lanes, against the definition: a register fed bit by bit.
    data = np.random.default_rng(0).integers(0, 256, 10_007, np.uint8).tobytes()
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF
    assert masked_crc32c(b"") == 0xA282EAD8


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/annotations/kinetics/i3d_checkpoints")
@pytest.mark.parametrize(
    ("name", "count", "first"),
    [("rgb_imagenet", 230, (7, 7, 7, 3, 64)), ("flow_imagenet", 230, (7, 7, 7, 2, 64)),
     ("rgb_scratch_kin600", 346, (7, 7, 7, 3, 64))],
)  # fmt: skip
def test_real_index_with_data_laid_at_its_offsets(tmp_path, name, count, first):
    index = SHARED / name / "model.ckpt.index"
    expected = bw.write_data_for_index(index, tmp_path / "model.ckpt")
    read = read_bundle(tmp_path / "model.ckpt", verify=False)
    assert len(read) == count
    assert all(np.array_equal(read[key], value) for key, value in expected.items())
    (stem,) = (key for key in read if key.endswith("Conv3d_1a_7x7/conv_3d/w"))
    assert read[stem].shape == first
    # The offsets tile the file: nothing overlaps, nothing lies between.
    spans = sorted((e.offset, e.offset + e.size) for e in read_index(index).values())
    assert spans[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    with pytest.raises(WeightsError, match=r"is damaged \(CRC-32C differs\)"):
        read_bundle(tmp_path / "model.ckpt")
