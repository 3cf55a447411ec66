"""``lightning-har data shards``, as it is typed."""

from __future__ import annotations

import pytest

from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder


def test_written_and_read_from_the_command_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("webdataset")
    monkeypatch.chdir(tmp_path)  # where `data show` leaves its picture
    clips = tmp_path / "clips"
    write_fake_folder(clips, clips=8)
    out = str(tmp_path / "out")
    assert main(["data", "shards", str(clips), "--out", out, "--size", "0.009", "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "train: 10 clips in 3 shards\nval: 2 clips in 1 shard\n" in text
    assert f"read it as shards:{out}" in text
    assert main(["data", "show", f"shards:{out}"]) == 0
    assert "10" in capsys.readouterr().out
    for call in (["check", "--report", str(tmp_path / "r.csv")], ["stats"], ["flow", "--out", str(tmp_path / "flow")]):
        assert main(["data", call[0], f"shards:{out}", *call[1:]]) == 2
        assert "the files that the shards were written from" in capsys.readouterr().err
    (clips / "wave" / "wave_03.mp4").write_bytes(b"")
    call = ["data", "shards", str(clips), "--out", str(tmp_path / "skipped"), "--workers", "0"]
    assert main(call) == 2
    assert main([*call, "--skip-errors"]) == 1
    assert "skipped wave/wave_03.mp4" in capsys.readouterr().err
