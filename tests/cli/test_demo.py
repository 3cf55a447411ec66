import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lightning_har._lightning import Trainer
from lightning_har.cli._page import Demo
from lightning_har.cli.demo import find_models
from lightning_har.cli.main import main
from lightning_har.errors import ConfigError, DecodeError, HarError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.tsn import TSNModule

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder and a zoo folder with a model of three classes."""
    folder = tmp_path_factory.mktemp("demo")
    module = CNNRNNModule(3, backbone="mobilenetv2_035", temporal="avg", pretrained=False, num_frames=2, input_size=64)
    module.class_names = ("sit", "stand", "wave")
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    (folder / "run").mkdir()
    trainer.save_checkpoint(folder / "run" / "best.ckpt", weights_only=True)
    module.save_pretrained(folder / "zoo" / "small")
    flow = TSNModule(2, "mobilenetv2_035", modality="flow", pretrained=False, input_size=64)
    flow.save_pretrained(folder / "zoo" / "flow")
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    return folder


@pytest.fixture(scope="module")
def clips(place: Path) -> dict[str, Path]:
    from videos import write_video

    return {
        "short": write_video(place / "short.mp4", 20, (48, 64)),
        "long": write_video(place / "long.mp4", 130, (48, 64)),
    }


def test_models_are_runs_and_a_zoo(place: Path) -> None:
    found = find_models([str(place / "run")], str(place / "zoo"))
    assert list(found) == [str(place / "run"), "flow", "small"]
    assert list(find_models(["small"], str(place / "zoo"))) == ["small", "flow"]
    for wrong, why in ((place / "gone", "no folder at"), (place / "gone.ckpt", "no model at"), (place, "no best")):
        with pytest.raises(HarError, match=why):
            find_models([str(wrong)])


def test_a_clip_and_a_long_video(place: Path, clips: dict[str, Path]) -> None:
    demo = Demo(find_models([str(place / "run")], str(place / "zoo")))
    short = demo.recognise(clips["short"], "small")
    assert set(short["scores"]) == {"sit", "stand", "wave"}
    assert sum(short["scores"].values()) == pytest.approx(1, abs=1e-4)
    assert short["timeline"] is None
    assert short["gradcam"].is_file()
    assert "1 × 2 frames" in short["told"]
    long = demo.recognise(clips["long"], str(place / "run"), explain=False)
    assert long["timeline"].is_file()
    assert long["gradcam"] is None
    assert "3 × 2 frames" in long["told"]  # the whole, and two windows of two seconds


def test_what_goes_wrong_is_said(place: Path, clips: dict[str, Path]) -> None:
    demo = Demo(find_models([], str(place / "zoo")))
    with pytest.raises(DecodeError, match=r"broken\.mp4"):
        demo.recognise(place / "broken.mp4", "small")
    with pytest.raises(ConfigError, match="optical flow"):
        demo.recognise(clips["short"], "flow")
    with pytest.raises(ConfigError, match="choose a model"):
        demo.recognise(clips["short"], "gone")


def test_every_failure_is_answered_in_a_line(
    place: Path, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    demo = Demo(find_models([], str(place / "zoo")))
    clip = str(clips["short"])

    def answer(error: Exception) -> str:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(demo, "_scores", fail)
        *nothing, told = demo.answer(clip, "small", False)
        assert nothing == [None, None, None]
        return told

    assert "--device cpu" in answer(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"))
    assert answer(RuntimeError(f"{clip} is odd\nmore")) == "**This did not work:** short.mp4 is odd."
    assert "No space left" in answer(OSError(28, "No space left on device"))
    assert "Upload a clip" in demo.answer(None, "small", False)[3]


def test_pictures_go_with_the_demo(place: Path, clips: dict[str, Path]) -> None:
    demo = Demo(find_models([], str(place / "zoo")))
    *_, gradcam, _ = demo.answer(str(clips["short"]), "small", True)
    assert Path(gradcam).is_file()
    demo.close()
    assert not Path(demo._pictures).exists()


@pytest.mark.slow
def test_the_camera_needs_no_ffmpeg(place: Path, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("gradio")
    from lightning_har.cli._page import build_page

    monkeypatch.setenv("PATH", "")
    page = build_page(Demo(find_models([], str(place / "zoo"))))
    (camera,) = (block for block in page.blocks.values() if isinstance(block, gradio.Video))
    assert camera.preprocess(gradio.FileData(path=str(clips["short"]))) == str(clips["short"])
    assert camera.preprocess(None) is None


@pytest.mark.slow
def test_it_serves_until_ctrl_c(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "lightning_har.cli.main", "demo", "--model", str(place / "run")]
    served = subprocess.Popen(
        [*command, "--port", str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert served.stdout is not None
    address = served.stdout.readline().split()
    try:
        assert address, served.communicate()[1]
        with urllib.request.urlopen(address[0], timeout=60) as page:
            assert "lightning-har" in page.read().decode()
        assert list(tmp_path.glob("lightning-har-demo-*"))
    finally:
        served.send_signal(signal.SIGINT)
        _, said = served.communicate(timeout=60)
    assert served.returncode == 0, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("lightning-har-demo-*"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_refuses_before_it_serves(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIGHTNING_HAR_ZOO", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, message in (
            ([], "no model to try"),
            (["--model", "gone.ckpt"], "no model at gone"),
            (["--model", "smal", "--zoo", str(place / "zoo")], "has no checkpoint 'smal'. Nearest: small"),
            (["--zoo", "./gone"], "no zoo at"),
            (["--model", str(place / "run"), "--port", port], "give another with --port"),
            (["--model", str(place / "run"), "--port", "99999"], "give another with --port"),
        ):
            assert main(["demo", *arguments]) == 2
            assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; set CHROMIUM to its path")
def test_the_page_in_a_browser(
    place: Path, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    sync_api = pytest.importorskip("playwright.sync_api")
    from lightning_har.cli._page import build_page, serve

    port = free_port()
    page = build_page(Demo(find_models([str(place / "run")], str(place / "zoo"))))
    address = serve(page, port)
    asked: list[str] = []
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=[
                    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
                    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
                ],
            )
            tab = browser.new_page(viewport={"width": 1200, "height": 1400}, permissions=["camera"])
            tab.set_default_timeout(90_000)
            monkeypatch.setenv("PATH", "")  # where no ffmpeg is installed

            def only_here(route: object) -> None:
                url = route.request.url
                if url.startswith((address, "data:", "blob:")):
                    route.continue_()
                else:
                    asked.append(url)
                    route.abort()

            tab.route("**/*", only_here)

            def give(file: Path) -> None:
                tab.goto(address)
                tab.locator("#clip input[type=file]").set_input_files(str(file))
                tab.locator("#clip").get_by_text(file.stem).first.wait_for()
                tab.locator("#go").click()

            give(clips["long"])
            tab.locator("#told").get_by_text("MiB").wait_for()
            assert tab.locator("#label").inner_text().split()[-1].endswith("%")
            assert any(name in tab.locator("#label").inner_text() for name in ("sit", "stand", "wave"))
            tab.locator("#timeline img").first.wait_for()
            tab.locator("#gradcam img").first.wait_for()
            tab.screenshot(path=str(tmp_path / "page.png"))

            give(place / "broken.mp4")
            tab.locator("#told").get_by_text("This did not work").wait_for()
            assert "broken.mp4" in tab.locator("#told").inner_text()
            assert "/tmp" not in tab.locator("#told").inner_text()

            tab.goto(address)
            tab.locator("#camera").get_by_text("Click to Access Webcam").click()
            tab.locator("#camera .capture-button").first.click()
            tab.locator("#camera [title='stop recording']").wait_for()
            tab.wait_for_timeout(2000)
            tab.locator("#camera .capture-button").first.click()
            tab.locator("#camera video[src]").wait_for()
            tab.locator("#go").click()
            tab.locator("#told").get_by_text("MiB").wait_for()

            tab.goto(address)
            tab.locator("#go").click()
            tab.locator("#told").get_by_text("Upload a clip").wait_for()
            tab.screenshot(path=str(tmp_path / "message.png"))
            browser.close()
    finally:
        page.close()
    assert asked == [], "the page asks for something from elsewhere"
