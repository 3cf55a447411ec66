"""MSR DailyActivity's file names."""

from __future__ import annotations

import pytest

from lightning_har.data.msr_daily import CLASSES, MSRDailyActivityDataModule, read_msr_daily
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec


def test_people_part_the_clips(tmp_path, capsys):
    assert len(CLASSES) == 16
    arguments = MSRDailyActivityDataModule.smoke_arguments(tmp_path)
    data = MSRDailyActivityDataModule(**arguments, spec=InputSpec(2, (16, 16)))
    people = {part: {r.group for r in m} for part, m in data.manifests.items()}
    assert people["test"] == {"s02", "s04"}
    assert people["train"] | people["val"] == {"s01", "s03"}
    assert not people["train"] & people["val"]
    assert data.coverage["test"] == {"listed": 160, "on_disk": 32}
    assert "test 32 of 160 (20.0 %)" in capsys.readouterr().err
    batch = next(iter(data.test_dataloader()))
    assert [f"a{k + 1:02d}" for k in batch["label"].tolist()] == [p[:3] for p in batch["path"]]
    other = MSRDailyActivityDataModule(arguments["root"], test_subjects=[1])
    assert {r.group for r in other.manifests["test"]} == {"s01"}


def test_what_is_absent_or_wrong_is_said(tmp_path):
    with pytest.raises(DataError, match=r"(?s)not a folder.*a01_s01_e01_rgb\.avi.*data fake msr_daily"):
        read_msr_daily(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no train clips"):
        read_msr_daily(tmp_path)
    MSRDailyActivityDataModule.fake(tmp_path / "deeper")
    (tmp_path / "a01_s01_e01_depth.avi").write_bytes(b"")
    assert len(read_msr_daily(tmp_path)["train"]) == 32
    for name in ("a17_s01_e01_rgb.avi", "a01_s11_e01_rgb.avi", "a00_s01_e01_rgb.avi"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match="3 names are out of range"):
        read_msr_daily(tmp_path)
    for subjects in ([], [11], range(1, 11)):
        with pytest.raises(ConfigError, match="test_subjects"):
            MSRDailyActivityDataModule(tmp_path, test_subjects=subjects)
