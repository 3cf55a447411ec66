from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from videos import put_cover_first, write_sound_with_cover, write_video

from lightning_har.data.decode import probe
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.viz.annotate import annotate_video
from lightning_har.viz.confusion import _select, confusion_figure, most_confused, save_confusion_matrix
from lightning_har.viz.curves import save_curves


def test_confusion_matrix_grows_with_its_classes(tmp_path: Path) -> None:
    sizes = {}
    for k in (3, 60):
        save_confusion_matrix(torch.eye(k, dtype=torch.int64) * 4, [f"class_{i}" for i in range(k)], tmp_path / "c.png")
        with Image.open(tmp_path / "c.png") as picture:
            sizes[k] = picture.size
            darkest = np.asarray(picture.convert("L")).min()
        assert darkest < 120
    assert sizes[60][0] > 2 * sizes[3][0]


@pytest.mark.parametrize(("count", "named"), [(13, 13), (101, 101), (400, 80)])
def test_names_of_classes_do_not_overlap_and_are_on_the_picture(count: int, named: int) -> None:
    names = [f"class {i} of a name of some length" for i in range(count)]
    figure = confusion_figure(torch.eye(count, dtype=torch.int64) * 4, names)
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = axes.get_xticklabels(), axes.get_yticklabels()
    assert [len(of) for of in labels] == [named, named]
    wide, high = figure.canvas.get_width_height()
    for edge, of in zip(("x", "y"), labels, strict=True):
        assert [label.get_text() for label in of] == names[:: -(-count // named)]
        boxes = [label.get_window_extent() for label in of]
        assert all(box.x0 >= 0 and box.x1 <= wide and box.y0 >= 0 and box.y1 <= high for box in boxes)
        spans = sorted((getattr(box, f"{edge}0"), getattr(box, f"{edge}1")) for box in boxes)
        assert all(before[1] <= after[0] for before, after in pairwise(spans)), edge
    assert {label.get_fontsize() >= 6 for of in labels for label in of} == {True}


def test_chosen_classes_keep_all_clips() -> None:
    counts = torch.tensor([[5, 1, 2], [0, 7, 3], [4, 0, 9]])
    chosen, rows, columns = _select(counts, ["a", "b", "c"], ["c", "a"])
    assert chosen.tolist() == [[9, 4, 0], [2, 5, 1]]
    assert (rows, columns) == (["c", "a"], ["c", "a", "(other)"])
    with pytest.raises(ConfigError, match="no class d"):
        _select(counts, ["a", "b", "c"], ["d"])


def test_confusion_matrix_refuses_other_shapes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="square"):
        save_confusion_matrix(torch.zeros(2, 3), ["a", "b"], tmp_path / "c.png")


def test_most_confused_pairs() -> None:
    counts = torch.tensor([[5, 1, 2], [0, 7, 3], [0, 0, 9]])
    assert most_confused(counts, ["a", "b", "c"], 2) == [("b", "c", 3), ("a", "c", 2)]
    assert len(most_confused(counts, ["a", "b", "c"])) == 3


def test_curves(tmp_path: Path) -> None:
    csv = tmp_path / "metrics.csv"
    csv.write_text("epoch,train_loss,val_loss,val_top1\n0,1.0,1.2,0.1\n1,0.5,nan,0.4\n2,0.4,0.8,\n")
    save_curves(csv, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > 2 * picture.height
    csv.write_text("epoch,train_loss\n")
    with pytest.raises(DataError, match="no epochs"):
        save_curves(csv, tmp_path / "c.png")


def test_annotated_video_has_all_frames_and_a_plate(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with av.open(str(source), "w") as writer:
        stream = writer.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(7):
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8))))
        writer.mux(stream.encode(None))
    annotate_video(source, target, [("wave", 0.9), ("clap", 0.1)])
    with av.open(str(target)) as reader:
        frames = [frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)]
    assert len(frames) == 7
    assert frames[0].shape == (240, 320, 3)
    assert abs(int(frames[0][-5, -5].mean()) - 200) < 12
    assert frames[0][8, 60].mean() < 170


def test_a_cover_picture_is_not_annotated(tmp_path: Path) -> None:
    source = put_cover_first(write_video(tmp_path / "in.mp4", 9))
    annotate_video(source, tmp_path / "out.mp4", [("wave", 0.9)])
    assert probe(tmp_path / "out.mp4").num_frames == 9
    with pytest.raises(DecodeError, match=r"in\.mp3: has no video stream"):
        annotate_video(write_sound_with_cover(tmp_path / "in.mp3"), tmp_path / "out.mp4", [("wave", 0.9)])


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_annotating_a_broken_file_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(DecodeError, match=r"bad\.mp4"):
        annotate_video(tmp_path / "bad.mp4", tmp_path / "out.mp4", [("x", 1.0)])
