"""``data stats``: counts and measures of what is there."""

from __future__ import annotations

from rich.console import Console

from lightning_har.data.epic_kitchens import EpicKitchensDataModule
from lightning_har.data.fake import fake_frames, write_video
from lightning_har.data.folder import scan_folder
from lightning_har.data.stats import class_counts, gather, save_stats_picture, stats_tables


def test_counts_lengths_sizes_and_rates(tmp_path):
    for name, frames, size, fps in (("a/1", 10, (48, 64), 25), ("a/2", 20, (48, 64), 25), ("b/1", 30, (64, 96), 10)):
        write_video(tmp_path / "clips" / f"{name}.mp4", fake_frames(0, frames, size), fps)
    (tmp_path / "clips" / "b" / "bad.mp4").write_bytes(b"")
    stats = gather({"all": scan_folder(tmp_path / "clips")}, workers=0)
    assert stats.clips == {"all": {"a": 2, "b": 2}}
    assert stats.unreadable == ["b/bad.mp4"]
    assert sorted(stats.infos) == [(10, 0.4, 48, 64, 25), (20, 0.8, 48, 64, 25), (30, 3.0, 64, 96, 10)]
    console = Console(width=120, file=open(tmp_path / "table.txt", "w"))  # noqa: SIM115
    for table in stats_tables(stats):
        console.print(table)
    console.file.close()
    text = (tmp_path / "table.txt").read_text()
    assert "2 of 2" in text
    save_stats_picture(stats, tmp_path / "out" / "stats.png")
    assert (tmp_path / "out" / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_stretches_and_heads_are_counted_as_they_are(tmp_path):
    EpicKitchensDataModule.fake(tmp_path)
    data = EpicKitchensDataModule(tmp_path)
    stats = gather({"test": data.manifests["test"]}, workers=0)
    assert [i.frames for i in stats.infos] == [20, 21, 20, 21]
    counts = class_counts(data.manifests["test"])
    assert sum(n for name, n in counts.items() if name.startswith("verb: ")) == 4
    assert counts["noun: tap"] == sum(r.label["noun"] == 0 for r in data.manifests["test"])
    save_stats_picture(stats, tmp_path / "stats.png")
