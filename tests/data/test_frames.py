"""Folders of pictures read like videos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lightning_har import VideoFolderDataModule
from lightning_har.data.fake import fake_frames
from lightning_har.data.frames import FrameFolder
from lightning_har.data.manifest import Manifest, Record
from lightning_har.errors import DecodeError
from lightning_har.spec import InputSpec


def write(folder, template, images, first=1):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        path = folder / template.format(i + first)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.mark.parametrize("template", ["img_{:05d}.png", "frame_{:010d}.png", "{:d}.png", "image.{:05d}.PNG"])
def test_frames_come_in_the_order_of_their_numbers(tmp_path, template):
    images = fake_frames(0, 12, (20, 30))
    write(tmp_path, template, images)
    (tmp_path / "notes.txt").write_text("x")
    source = FrameFolder(tmp_path)
    assert source.num_frames == 12
    assert np.array_equal(source.read([0, 11, 3, 3]), images[[0, 11, 3, 3]])
    assert source.read([0], (10, 15)).shape == (1, 10, 15, 3)
    assert source.read([0, 1], lambda h, w: (h // 2, w * 2)).shape == (2, 10, 60, 3)
    with pytest.raises(DecodeError, match="12, from 0"):
        source.read([12])


@pytest.mark.parametrize("pair", [("flow_x_{:05d}.png", "flow_y_{:05d}.png"), ("x_{:05d}.png", "y_{:05d}.png"),
                                  ("u/frame_{:010d}.png", "v/frame_{:010d}.png")])  # fmt: skip
def test_flow_pictures_pair_beside_rgb(tmp_path, pair):
    codes = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 2)).astype(np.uint8)
    for c, template in enumerate(pair):
        write(tmp_path, template, codes[..., c])
    write(tmp_path, "img_{:05d}.png", fake_frames(0, 6, (20, 30)))
    source = FrameFolder(tmp_path, "flow")
    assert source.num_frames == FrameFolder(tmp_path).num_frames == 6
    assert np.array_equal(source.read([4, 0, 5]), codes[[4, 0, 4]])
    (tmp_path / pair[1].format(5)).unlink()
    with pytest.raises(DecodeError, match="picture 5 has only one"):
        FrameFolder(tmp_path, "flow")


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DecodeError, match="nowhere"):
        FrameFolder(tmp_path / "nowhere")
    with pytest.raises(DecodeError, match="no numbered pictures"):
        FrameFolder(tmp_path)
    with pytest.raises(DecodeError, match="no flow pictures"):
        FrameFolder(tmp_path, "flow")
    write(tmp_path / "a", "img_{:05d}.png", fake_frames(0, 5, (20, 30)))
    (tmp_path / "a" / "img_00003.png").unlink()
    with pytest.raises(DecodeError, match="from number 2 to 4"):
        FrameFolder(tmp_path / "a")
    write(tmp_path / "b", "img_{:05d}.jpg", fake_frames(0, 3, (20, 30)))
    whole = (tmp_path / "b" / "img_00002.jpg").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"junk"):
        (tmp_path / "b" / "img_00002.jpg").write_bytes(content)
        assert len(FrameFolder(tmp_path / "b").read([0])) == 1
        with pytest.raises(DecodeError, match=r"img_00002\.jpg"):
            FrameFolder(tmp_path / "b").read([0, 1])
    write(tmp_path / "b", "img_{:05d}.jpg", fake_frames(0, 1, (24, 30)), first=2)
    with pytest.raises(DecodeError, match="unlike the first"):
        FrameFolder(tmp_path / "b").read([0, 1])
    write(tmp_path / "b", "thumb_{:05d}.jpg", fake_frames(0, 3, (20, 30)))
    with pytest.raises(DecodeError, match="several series"):
        FrameFolder(tmp_path / "b")


def test_a_manifest_of_folders_loads_like_one_of_files(tmp_path):
    records = []
    for i in range(6):
        write(tmp_path / f"clip{i}", "img_{:05d}.jpg", fake_frames(i, 9, (40, 50)))
        write(tmp_path / f"clip{i}", "x_{:05d}.jpg", fake_frames(i, 8, (40, 50))[..., 0])
        write(tmp_path / f"clip{i}", "y_{:05d}.jpg", fake_frames(i, 8, (40, 50))[..., 1])
        records.append(Record(str(i), f"clip{i}", label=i % 2, start=2 * (i % 2), stop=9))
    Manifest(tuple(records), ("a", "b"), tmp_path).to_csv(tmp_path / "all.csv")
    specs = {"rgb": InputSpec(3, (32, 32)), "flow": InputSpec(3, (32, 32), modality="flow", mean=(0.5,), std=(1.0,))}
    data = VideoFolderDataModule(tmp_path / "all.csv", spec=specs, batch_size=2, num_workers=0)
    for batch in data.train_dataloader():
        assert batch["video"]["rgb"].shape[1:] == (3, 3, 32, 32)
        assert batch["video"]["flow"].shape[1:] == (2, 3, 32, 32)
