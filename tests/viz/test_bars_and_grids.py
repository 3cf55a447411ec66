from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec
from lightning_har.viz.bars import class_scores, save_class_bars, save_most_confused
from lightning_har.viz.grids import _rows, _told, save_clips, save_samples


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_scores_agree_with_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    true, said = (torch.randint(0, 5, (60,), generator=generator) for _ in range(2))
    counts = torch.bincount(true * 5 + said, minlength=25).reshape(5, 5)
    expected = metrics.precision_recall_fscore_support(true, said, labels=range(5))
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        torch.testing.assert_close(class_scores(counts)[name], torch.from_numpy(values))


def test_bars_grow_with_the_classes_and_can_be_few(tmp_path: Path) -> None:
    heights = {}
    for k in (13, 101):
        counts = torch.eye(k, dtype=torch.int64) * 3
        save_class_bars(counts, [f"class {i}" for i in range(k)], tmp_path / "b.png")
        heights[k] = size_of(tmp_path / "b.png")[1]
    assert heights[13] < heights[101]
    save_class_bars(counts, [f"class {i}" for i in range(k)], tmp_path / "b.png", worst=10)
    assert size_of(tmp_path / "b.png")[1] < heights[13]
    with pytest.raises(ConfigError, match="square"):
        save_class_bars(counts, ["a"], tmp_path / "b.png")
    with pytest.raises(ConfigError, match="one of precision, recall, f1"):
        save_class_bars(counts, [""] * k, tmp_path / "b.png", measure="accuracy")
    with pytest.raises(ConfigError, match="no clips"):
        save_class_bars(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"], tmp_path / "b.png")


def test_most_confused_of_none_and_some(tmp_path: Path) -> None:
    save_most_confused(torch.eye(3, dtype=torch.int64), ["a", "b", "c"], tmp_path / "m.png")
    empty = size_of(tmp_path / "m.png")[1]
    save_most_confused(torch.ones(3, 3, dtype=torch.int64), ["a", "b", "c"], tmp_path / "m.png")
    assert size_of(tmp_path / "m.png")[1] > empty


def test_rows_of_clips_views_and_flow(tmp_path: Path) -> None:
    clip = torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8)
    heights = []
    for video in (clip, clip.expand(2, -1, -1, -1, -1), clip[:, None].expand(1, 3, -1, -1, -1, -1), clip[:, :2]):
        save_clips(video, tmp_path / "c.png", titles=["a", "b"], frames=3)
        heights.append(size_of(tmp_path / "c.png")[1])
    one, two, three_views, flow = heights
    assert one < two == flow < three_views
    save_clips({"rgb": clip, "flow": clip[:, :2]}, tmp_path / "c.png")
    assert size_of(tmp_path / "c.png")[1] == three_views
    for wrong in (clip.float(), clip[0]):
        with pytest.raises(ConfigError, match="give uint8"):
            save_clips(wrong, tmp_path / "c.png")
    with pytest.raises(ConfigError, match="no clips"):
        save_clips(clip[:0], tmp_path / "c.png")


def test_small_motion_is_drawn_clearer_and_said_so() -> None:
    flow = torch.full((2, 3, 8, 8), 128, dtype=torch.uint8)
    flow[0, :, :4] = 128 + 10
    flow[1, :, 4:] = 128 - 5
    (x_title, x), (y_title, y) = _rows(flow, "walk")
    assert (x_title, y_title) == ("walk x, contrast × 12", "walk y, contrast × 12")
    assert set(x.unique().tolist()) == {128, 128 + 120}
    assert set(y.unique().tolist()) == {128, 128 - 60}
    flow[0, :, :4] = 0  # as fast to the left as can be
    assert [title for title, _ in _rows(flow, "walk")] == ["walk x", "walk y"]
    assert torch.equal(_rows(flow, "walk")[0][1], flow[:1])


def test_the_range_that_is_told_is_the_one_that_is_fed() -> None:
    spec = InputSpec(4, (16, 16), mean=(0.5, 0.0, 0.2), std=(0.5, 0.1, 0.4))
    told = _told({"": torch.zeros(1, 3, 4, 16, 16)}, spec)
    assert told == "4 frames of 16×16; fed as -1.00 to 10.00"  # white in the second channel is (1 - 0) / 0.1
    assert "-1.00 to 1.00" in _told({"": torch.zeros(1, 3, 4, 16, 16)}, InputSpec(4, (16, 16), (-1, 1), (0.0,), (1.0,)))


def test_samples_of_a_folder(tmp_path: Path, class_folder: Path) -> None:
    data = VideoFolderDataModule(class_folder, spec=InputSpec(4, (32, 32)))
    save_samples(data, tmp_path / "s.png", clips=3, frames=4)
    assert size_of(tmp_path / "s.png")[1] > 400
    with pytest.raises(DataError, match="no 'holiday' split"):
        save_samples(data, tmp_path / "s.png", split="holiday")
    data.spec = None
    with pytest.raises(ConfigError, match="spec is not set"):
        save_samples(data, tmp_path / "s.png")
