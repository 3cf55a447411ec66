import os
import shutil
import socket
from pathlib import Path

import pytest

from lightning_har._lightning import Trainer
from lightning_har.cli._page import Demo
from lightning_har.cli.demo import find_models
from lightning_har.cli.main import main
from lightning_har.errors import ConfigError, DecodeError
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
    with pytest.raises(ConfigError, match="no model at"):
        find_models([str(place / "gone")])


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
            (["--model", "gone"], "no model at gone"),
            (["--zoo", "./gone"], "no zoo at"),
            (["--model", str(place / "run"), "--port", port], "give another with --port"),
            (["--model", str(place / "run"), "--port", "99999"], "give another with --port"),
        ):
            assert main(["demo", *arguments]) == 2
            assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; set CHROMIUM to its path")
def test_the_page_in_a_browser(place: Path, clips: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    sync_api = pytest.importorskip("playwright.sync_api")
    from lightning_har.cli._page import build_page, serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = build_page(Demo(find_models([str(place / "run")], str(place / "zoo"))))
    address = serve(page, port)
    asked: list[str] = []
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
            )
            tab = browser.new_page(viewport={"width": 1200, "height": 1400})
            tab.set_default_timeout(90_000)

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
            tab.locator("#go").click()
            tab.locator("#told").get_by_text("Upload a clip").wait_for()
            tab.screenshot(path=str(tmp_path / "message.png"))
            browser.close()
    finally:
        page.close()
    assert asked == [], "the page asks for something from elsewhere"
