from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_har._lightning import Trainer, pl
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.errors import ConfigError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.spec import InputSpec
from lightning_har.viz.callbacks import (
    ClassPictures,
    CurvePictures,
    FeaturePictures,
    GradCAMPictures,
    SamplePictures,
    log_picture,
)


class ImageLogger(pl.loggers.CSVLogger):
    """A CSVLogger whose experiment takes images as TensorBoard's does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.images = []

    @property
    def experiment(self):
        experiment = super().experiment
        experiment.add_image = lambda name, image, step: self.images.append((name, image, step))
        return experiment


def fit(class_folder: Path, folder: Path, logger, callbacks: list) -> CNNRNNModule:
    module = CNNRNNModule(2, "mobilenetv2_035", "avg", pretrained=False, num_frames=2, input_size=64)
    data = VideoFolderDataModule(class_folder, spec=module.spec, batch_size=4, num_workers=0, val_fraction=0.3)
    module.class_names = data.class_names
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=2, logger=logger, callbacks=callbacks, default_root_dir=folder, **quiet)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    return module


def test_all_pictures_go_beside_the_csv_and_to_who_takes_images(class_folder: Path, tmp_path: Path) -> None:
    logger = ImageLogger(tmp_path)
    fit(
        class_folder,
        tmp_path,
        logger,
        [
            SamplePictures(2),
            GradCAMPictures(1),
            ClassPictures(),
            CurvePictures(),
            FeaturePictures(["blocks.0.0"], channels=2, steps=1),
        ],
    )
    folder = Path(logger.log_dir) / "pictures"
    names = {"samples", "gradcam", "confusion", "classes", "confused", "curves", "features"}
    assert {path.stem for path in folder.glob("*.png")} == names
    assert {name for name, _, _ in logger.images} == names
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 3, f"{path.name} is blank"
    assert len((folder / "curves.csv").read_text().splitlines()) == 3
    assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for _, image, _ in logger.images)


def test_tensorboard_gets_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    trainer = SimpleNamespace(loggers=[logger], is_global_zero=True, default_root_dir=tmp_path, global_step=3)
    path = log_picture(trainer, "red", lambda p: Image.new("RGB", (8, 8), "red").save(p))
    logger.experiment.flush()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["images"] == ["red"]
    assert [e.step for e in events.Images("red")] == [3]
    assert path == Path(logger.log_dir) / "pictures" / "red.png"


def test_without_a_logger_they_go_to_the_root_and_only_the_first_process_draws(tmp_path: Path) -> None:
    trainer = SimpleNamespace(loggers=[], is_global_zero=True, default_root_dir=tmp_path, global_step=0)
    assert log_picture(trainer, "x", lambda p: p.write_bytes(b"x")) == tmp_path / "pictures" / "x.png"
    trainer.is_global_zero = False
    assert log_picture(trainer, "y", lambda p: p.write_bytes(b"y")) is None


def test_a_module_without_a_2d_backbone_has_no_features(tmp_path: Path) -> None:
    module = SimpleNamespace(net=SimpleNamespace(backbone=None))
    with pytest.raises(ConfigError, match="no 2D backbone"):
        FeaturePictures().on_fit_start(SimpleNamespace(), module)
    with pytest.raises(ConfigError, match="every_n_epochs"):
        GradCAMPictures(every_n_epochs=0)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (FeaturePictures(), "test_resnet has no layer 'blocks.1.0'"),
        (FeaturePictures(["layer1"], channels=9999), "has channels 0 to"),
    ],
)
def test_features_that_cannot_be_drawn_are_refused_before_the_training(
    callback: FeaturePictures, message: str, class_folder: Path, tmp_path: Path
) -> None:
    module = CNNRNNModule(2, "test_resnet", "avg", pretrained=False, num_frames=2, input_size=32)
    module.training_step = lambda batch, index: pytest.fail("it has begun")
    data = VideoFolderDataModule(class_folder, spec=module.spec, batch_size=4, num_workers=0)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[callback])
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, data)


def test_grad_cam_of_flow_alone_is_refused_before_the_training() -> None:
    spec = InputSpec(2, (32, 32), modality="flow", mean=(0.5,), std=(1.0,))
    with pytest.raises(ConfigError, match="flow alone"):
        GradCAMPictures().on_fit_start(SimpleNamespace(), SimpleNamespace(spec=spec))
    GradCAMPictures().on_fit_start(
        SimpleNamespace(), SimpleNamespace(spec={"rgb": InputSpec(2, (32, 32)), "flow": spec})
    )
