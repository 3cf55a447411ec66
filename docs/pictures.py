"""Draws the docs' photographs, docs/images/{samples,quickstart,gradcam,features,demo}.png.

    lightning run recipes/quickstart.py --out RUN
    python docs/pictures.py RUN MOBILENET.tflite [NAME ...]

The second argument is the quantized MobileNetV2 of the card mobilenetv2-quantized-imagenet; NAMEs draw only these. The
demo's needs the extras demo and dev, and a Chromium (CHROMIUM, or on the PATH).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av

from lightning_har.data.synthetic import SyntheticActionsDataModule
from lightning_har.modules import load_checkpoint
from lightning_har.nets.backbones import build_backbone
from lightning_har.viz.activation import STUDY_C_BLOCKS, save_features
from lightning_har.viz.gradcam import grad_cam, save_grad_cam
from lightning_har.viz.grids import save_samples

IMAGES = Path(__file__).parent / "images"


def clips(run: Path, folder: Path) -> SyntheticActionsDataModule:
    """A few rendered clips of actors that the run never saw, as its GRU takes them."""
    module = load_checkpoint(run / "gru" / "best.ckpt")
    data = SyntheticActionsDataModule(train_clips=4, val_clips=1, test_clips=1, root=folder, batch_size=12)
    data.spec, data.eval_sampling, data.train_sampling = module.spec, module.eval_sampling, module.train_sampling
    data.num_workers = 0
    data.prepare_data()
    return data


def samples(run: Path, _: Path, folder: Path) -> None:
    """What the GRU is fed."""
    save_samples(clips(run, folder), IMAGES / "samples.png", clips=4)


def quickstart(run: Path, _: Path, __: Path) -> None:
    """The GRU's curves and its confusion matrix, side by side."""
    from PIL import Image

    parts = [Image.open(run / "gru" / f"{name}.png").convert("RGB") for name in ("curves", "confusion_matrix")]
    height = min(part.height for part in parts)
    parts = [part.resize((round(part.width * height / part.height), height)) for part in parts]
    sheet = Image.new("RGB", (sum(part.width for part in parts), height), "white")
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width
    sheet.save(IMAGES / "quickstart.png")


def gradcam(run: Path, _: Path, folder: Path) -> None:
    """Four test clips, the first of each of four actions."""
    module = load_checkpoint(run / "gru" / "best.ckpt")
    data = clips(run, folder)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    order = [data.class_names.index(name) for name in ("sit_down", "open_door", "pick_up", "kick")]
    video = batch["video"][[batch["label"].tolist().index(k) for k in order]]
    save_grad_cam(video, grad_cam(module, video), IMAGES / "gradcam.png", class_names=module.class_names)


def features(_: Path, weights: Path, __: Path) -> None:
    """Study C's figure 5."""
    backbone = build_backbone("mobilenetv2_100", pretrained=str(weights))
    save_features(backbone, IMAGES / "features.png", titles=[f"block {n}" for n in STUDY_C_BLOCKS])


def demo(run: Path, _: Path, folder: Path) -> None:
    """The page after a long clip: test clips of one actor after another."""
    import socket

    from playwright.sync_api import sync_playwright

    from lightning_har.cli._page import Demo, build_page, serve

    data = clips(run, folder)
    video = folder / "a-day.mp4"
    with av.open(str(video), "w") as writer:
        stream = writer.add_stream("libx264", rate=25)
        stream.height = stream.width = 96
        stream.pix_fmt = "yuv420p"
        for record in data.manifests["test"]:
            with av.open(str(data.manifests["test"].file(record))) as reader:
                frames = [frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)]
            for i in range(50):  # two seconds each, as long as a window of the page
                image = frames[round(i * (len(frames) - 1) / 49)]
                writer.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        writer.mux(stream.encode(None))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = build_page(Demo({f"quickstart/{name}": run / name for name in ("gru", "avg", "single")}))
    try:
        address = serve(page, port)
        with sync_playwright() as playwright:
            chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page(viewport={"width": 1200, "height": 1000})
            tab.set_default_timeout(300_000)
            tab.goto(address)
            tab.locator("#clip input[type=file]").set_input_files(str(video))
            tab.locator("#clip").get_by_text(video.stem).first.wait_for()
            tab.locator("#go").click()
            tab.locator("#told").get_by_text("MiB").wait_for()
            tab.locator("#gradcam img").first.wait_for()
            tab.wait_for_timeout(2000)
            tab.screenshot(path=str(IMAGES / "demo.png"), full_page=True)
            browser.close()
    finally:
        page.close()


DRAWN: dict[str, Callable[[Path, Path, Path], None]] = {
    "samples": samples,
    "quickstart": quickstart,
    "gradcam": gradcam,
    "features": features,
    "demo": demo,
}


def main(run: str, weights: str, *names: str) -> None:
    """Draw them."""
    for name in names or DRAWN:
        with tempfile.TemporaryDirectory() as folder:
            DRAWN[name](Path(run), Path(weights), Path(folder))
        print(f"wrote {IMAGES / name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
