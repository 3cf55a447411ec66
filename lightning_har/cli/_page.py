"""The page behind ``lightning-har demo``: what it does, and how it looks."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.errors import ConfigError, DataError, HarError

if TYPE_CHECKING:
    from lightning_har.data.datamodule import ActionDataModule
    from lightning_har.modules.base import ActionRecognizer

_MOST_WINDOWS = 60
_WINDOW_S = 2.0
"""Least length of a window of the timeline."""


class Demo:
    """What the page does, without the page.

    Args:
        models: Where they lie, by name.
        device: To run on.
    """

    def __init__(self, models: Mapping[str, Path], device: str = "cpu") -> None:
        self.models = dict(models)
        self.device = device
        self._loaded: dict[str, ActionRecognizer] = {}
        self._pictures = tempfile.mkdtemp(prefix="lightning-har-demo-")

    def close(self) -> None:
        """Remove the pictures of what was looked at."""
        shutil.rmtree(self._pictures, ignore_errors=True)

    def load(self, name: str) -> ActionRecognizer:
        """A model, kept for the next clip; only the last one is.

        Raises:
            HarError: It cannot be loaded.
        """
        from lightning_har.modules.pretrained import load_model

        if name not in self.models:
            raise ConfigError("choose a model first")
        if name not in self._loaded:
            module = load_model(self.models[name])
            if not module.num_classes:
                raise ConfigError(f"{name} has no classes: it gives features")
            self._loaded = {name: module.to(self.device).eval()}
        return self._loaded[name]

    def answer(self, file: str | None, name: str, explain: bool) -> tuple[Any, Any, Any, str]:
        """What the page shows: scores, timeline, Grad-CAM, and what is told, or why there is nothing."""
        nothing = (None, None, None)
        if not file:
            return *nothing, "**Upload a clip, or record one with the camera, first.**"
        try:
            found = self.recognise(file, name, explain=explain)
        except HarError as error:
            return *nothing, f"**This did not work:** {_for_people(error, file)}"
        except (RuntimeError, OSError) as error:  # a full accelerator, a full disk
            kind = type(error).__name__
            why = (str(error) or kind).splitlines()[0].replace(str(file), Path(file).name)
            remedy = " Choose a smaller model, or serve with --device cpu." if kind == "OutOfMemoryError" else ""
            return *nothing, f"**This did not work:** {why}.{remedy}"
        pictures = [str(found[k]) if found[k] else None for k in ("timeline", "gradcam")]
        return found["scores"], pictures[0], pictures[1], found["told"]

    def recognise(self, file: str | Path, name: str, *, explain: bool = True) -> dict[str, Any]:
        """Look at a clip, and at every stretch of a long one.

        Args:
            file: The clip.
            name: Of the model.
            explain: Compute Grad-CAM too.

        Returns:
            "scores": of the whole clip, by class; "timeline": a PNG, None of a clip too short for two windows;
            "gradcam": a PNG, or None; "told": speed, memory, and what could not be done, as Markdown.

        Raises:
            HarError: The clip cannot be read, or the model not loaded.
        """
        import torch

        from lightning_har.bench.memory import PeakMemory

        with PeakMemory(self.device) as memory:
            began = time.perf_counter()
            module = self.load(name)
            loaded = time.perf_counter()
            data, windows = self._data(module, Path(file))
            dataset = data.dataset("predict")
            read, computed, scores, first = 0.0, 0.0, [], None
            for i in range(len(dataset)):
                start = time.perf_counter()
                sample: Any = dataset[i]
                read += time.perf_counter() - start
                start = time.perf_counter()
                scores.append(self._scores(module, sample["video"]))
                computed += time.perf_counter() - start
                first = sample["video"] if first is None else first
        names = self._names(module, scores[0].shape[1])
        folder = Path(tempfile.mkdtemp(dir=self._pictures))
        timeline = None
        if len(windows) > 1:
            from lightning_har.viz.timeline import save_timeline

            timeline = folder / "timeline.png"
            save_timeline(windows[1:], torch.cat(scores[1:]), names, timeline)
        gradcam, note = (None, "") if not explain else self._explain(module, first, names, folder)
        peak = "" if memory.peak_bytes is None else f", peak memory {memory.peak_bytes / 2**20:.0f} MiB"
        told = (
            f"{len(scores)} × {_frames(first)} frames: reading {read / len(scores) * 1e3:.0f} ms, network "
            f"{computed / len(scores) * 1e3:.0f} ms each on {self.device}{peak}"
        )
        if loaded - began > 0.05:
            told += f"; the model was loaded in {loaded - began:.1f} s"
        best = dict(zip(names, scores[0][0].tolist(), strict=True))
        return {"scores": best, "timeline": timeline, "gradcam": gradcam, "told": f"{told}. {note}".strip()}

    def _data(self, module: ActionRecognizer, file: Path) -> tuple[ActionDataModule, list[tuple[float, float]]]:
        from lightning_har.data.decode import open_video
        from lightning_har.data.extract import ManifestDataModule
        from lightning_har.data.manifest import Manifest, Record

        if module.spec is None:
            raise ConfigError("this model takes cached features, not clips")
        if isinstance(module.spec, Mapping) or module.spec.modality != "rgb":
            raise ConfigError("this model takes optical flow, which the page does not compute; choose one for RGB")
        if not file.is_file():
            raise DataError("the clip is not there any more; upload it again")
        video = open_video(file, "pyav", 0)
        try:
            total, fps = video.num_frames, video.fps or 25.0
        finally:
            video.close()
        length = max(round(_WINDOW_S * fps), module.spec.num_frames, -(-total // _MOST_WINDOWS))
        starts = list(range(0, total - length + 1, length)) if total >= 2 * length else []
        stretches = [(0, total), *((start, start + length) for start in starts)]
        records = tuple(
            Record(id=str(i), path=file.name, start=start, stop=stop, num_frames=total)
            for i, (start, stop) in enumerate(stretches)
        )
        manifest = Manifest(records, None, file.parent)
        data = ManifestDataModule(manifest, spec=module.spec, eval_sampling=module.eval_sampling)
        return data, [(start / fps, stop / fps) for start, stop in stretches]

    def _scores(self, module: ActionRecognizer, video: Any) -> Any:
        """(1, K) on the CPU; the classes of several heads side by side."""
        import torch

        with torch.inference_mode():
            views = video if video.ndim == 5 else video[None]
            logits = module.forward_views(views[None].to(self.device))
            heads = logits.values() if isinstance(logits, dict) else [logits]
            return torch.cat([x.float().softmax(1) for x in heads], 1).cpu()

    @staticmethod
    def _names(module: ActionRecognizer, count: int) -> list[str]:
        names = module.class_names
        if isinstance(names, dict):
            return [f"{head}: {name}" for head, of_head in names.items() for name in of_head]
        return list(names) if names is not None else [f"class {k}" for k in range(count)]

    def _explain(
        self, module: ActionRecognizer, video: Any, names: Sequence[str], folder: Path
    ) -> tuple[Path | None, str]:
        from lightning_har.viz.gradcam import grad_cam, save_grad_cam

        clip = video[:1] if video.ndim == 5 else video[None]
        try:
            cam = grad_cam(module, clip)
        except ConfigError as error:
            return None, f"No Grad-CAM: {error}"
        path = folder / "gradcam.png"
        save_grad_cam(clip, cam, path, class_names=names)
        return path, ""


def build_page(demo: Demo) -> Any:
    """The Gradio page.

    Raises:
        ConfigError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: it tells its makers otherwise
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio as gr
    except ImportError as error:
        raise ConfigError(f"the page needs gradio: {sys.executable} -m pip install 'lightning-har[demo]'") from error

    with gr.Blocks(title="lightning-har", analytics_enabled=False) as page:
        gr.Markdown("# lightning-har\nName the action in a clip. The clip stays on this machine.")
        with gr.Row():
            with gr.Column():
                names = list(demo.models)
                clip = gr.File(label="Clip", file_types=["video"], type="filepath", elem_id="clip")
                camera = gr.Video(
                    label="or the camera",
                    sources=["webcam"],
                    webcam_options=gr.WebcamOptions(mirror=False),
                    include_audio=False,
                    elem_id="camera",
                )
                # Gradio's own runs an installed ffmpeg, to take out a sound that was not recorded.
                camera.preprocess = lambda recorded: recorded and recorded.path
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                explain = gr.Checkbox(True, label="Grad-CAM: where and when the model saw it")
                button = gr.Button("Recognise", variant="primary", elem_id="go")
            with gr.Column():
                label = gr.Label(num_top_classes=5, label="Top 5", elem_id="label")
                told = gr.Markdown(elem_id="told")
        # The buttons leave out "share", which would upload the picture.
        picture = {"type": "filepath", "show_label": False, "buttons": ["download", "fullscreen"]}
        gr.Markdown("**Over a long clip:** the strongest classes, and the verdict of each window")
        timeline = gr.Image(elem_id="timeline", **picture)
        gr.Markdown("**Grad-CAM:** where and when the model saw its verdict")
        gradcam = gr.Image(elem_id="gradcam", **picture)
        # What was given last is what is looked at.
        clip.upload(lambda: None, None, camera)
        camera.stop_recording(lambda: None, None, clip)
        outputs = [label, timeline, gradcam, told]
        button.click(
            lambda file, recorded, name, wanted: demo.answer(file or recorded, name, wanted),
            [clip, camera, model, explain],
            outputs,
        )
    return page


def serve(page: Any, port: int, **options: Any) -> str:
    """Serve the page to this machine, in the background.

    Args:
        page: From ``build_page``.
        port: Of 127.0.0.1.
        **options: Of Gradio's ``launch``.

    Returns:
        Its address.
    """
    import gradio as gr

    system = ["system-ui", "sans-serif"]  # the default theme would fetch its fonts
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        show_error=True,
        prevent_thread_lock=True,
        footer_links=[],
        theme=gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"]),
        **options,
    )
    return f"http://127.0.0.1:{port}"


def _for_people(error: HarError, file: str) -> str:
    """The message with the file's name, instead of where the upload lies."""
    return str(error).replace(str(file), Path(file).name)


def _frames(video: Any) -> int:
    return int(video.shape[-3])
