"""Converters against files in every upstream layout, made here; pins, pickles, golden checks."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from hub_models import clip, tiny

import lightning_har as har
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.hub import build as building
from lightning_har.hub.build import build, compare, convert, golden_outputs
from lightning_har.hub.convert import converter
from lightning_har.hub.index import load_cards
from lightning_har.nets.i3d import I3D
from lightning_har.weights.card import Card, Protocol, Result, Upstream, read_card
from lightning_har.weights.fetch import digests
from lightning_har.weights.hub import find_zoo

CARDS = load_cards()
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "mobilenet_v2"
TFLITE = SHARED / "mobilenet_v2_1.0_224_quant.tflite"


def randomized(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor
        elif name.endswith("running_var"):
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(tensor.shape, generator=generator) * 0.1
    return state


def same(net, state):
    ours = net.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[k], state[k]) for k in ours)


# -- each layout -------------------------------------------------------------------------------------------

UNITS = {
    "b0": "Branch_0/Conv3d_0a_1x1", "b1a": "Branch_1/Conv3d_0a_1x1", "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1", "b2b": "Branch_2/Conv3d_0b_3x3", "b3b": "Branch_3/Conv3d_0b_1x1",
}  # fmt: skip
LEAVES = {
    "conv3d.weight": "conv_3d/w", "conv3d.bias": "conv_3d/b", "bn.bias": "batch_norm/beta",
    "bn.running_mean": "batch_norm/moving_mean", "bn.running_var": "batch_norm/moving_variance",
}  # fmt: skip


def as_tensorflow(state, scope):
    """The authors' names and layout."""
    out = {}
    for key, tensor in state.items():
        head, _, leaf = key.rpartition(".")
        place, _, layer = head.rpartition(".")
        leaf = LEAVES.get(f"{layer}.{leaf}")
        if leaf is None:  # scales and counters, which they do not have
            continue
        block, _, unit = place.partition(".")
        where = "Logits/Conv3d_0c_1x1" if block == "logits" else f"{block}/{UNITS[unit]}" if unit else block
        if where == "Mixed_5b/Branch_2/Conv3d_0b_3x3":
            where = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
        array = tensor.numpy()
        if leaf == "conv_3d/w":
            array = array.transpose(2, 3, 4, 1, 0)
        elif leaf.startswith("batch_norm"):
            array = array.reshape(1, 1, 1, 1, -1)
        out[f"{scope}/inception_i3d/{where}/{leaf}"] = np.ascontiguousarray(array)
    return out


@pytest.mark.parametrize(("channels", "scope", "modality"), [(3, "RGB", "rgb"), (2, "Flow", "flow")])
def test_tensorflow_bundle(tmp_path, channels, scope, modality):
    state = randomized(I3D(400, channels))
    state = {k: torch.ones_like(v) if k.endswith("bn.weight") else v for k, v in state.items()}
    write_bundle(tmp_path / "model.ckpt", as_tensorflow(state, scope))
    module = converter("i3d_tensorflow")(sorted(tmp_path.iterdir()))
    assert same(module.net, state)
    assert module.spec.modality == modality
    assert (module.spec.value_range, module.spec.mean, module.spec.std) == ((-1.0, 1.0), (0.0,), (1.0,))
    assert (module.class_names[0], module.class_names[399]) == ("abseiling", "zumba")


def test_pytorch_port(tmp_path):
    state = randomized(I3D(600))
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "rgb_imagenet.pt")
    module = converter("i3d_port")([tmp_path / "rgb_imagenet.pt"])
    assert same(module.net, state)
    assert module.class_names is None, "600 classes, whose names nobody gave"


def as_mmaction2(name):
    """timm's name for a tensor of a ResNet as mmaction2's."""
    if name.startswith("head.fc."):
        return name.replace("head.fc", "cls_head.fc_cls")
    name = name.removeprefix("backbone.").removeprefix("net.")
    parts = name.split(".")
    if "downsample" in parts:
        parts[parts.index("downsample") + 1] = "conv" if parts[parts.index("downsample") + 1] == "0" else "bn"
    elif parts[-2].startswith("bn"):
        parts[-2:-1] = [f"conv{parts[-2][2:]}", "bn"]
    else:
        parts.insert(-1, "conv")
    return ".".join(["backbone", *parts])


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mmaction2_tsn", lambda: har.TSNModule(400, "resnet50", pretrained=False)),
        ("mmaction2_i3d", lambda: har.I3DModule(400, "resnet50", pretrained=False)),
    ],
)
def test_mmaction2(tmp_path, name, build):
    state = randomized(build().net)
    told = {as_mmaction2(k): v for k, v in state.items()}
    assert "backbone.layer1.0.conv1.bn.weight" in told
    assert "backbone.layer2.0.downsample.bn.running_var" in told
    extra = {"data_preprocessor.mean": torch.zeros(3)}
    torch.save({"meta": {"epoch": 100}, "state_dict": {**told, **extra}}, tmp_path / "x.pth")
    module = converter(name)([tmp_path / "x.pth"])
    assert same(module.net, state)
    assert module.eval_sampling.num_views == {"mmaction2_tsn": 10, "mmaction2_i3d": 30}[name]
    torch.save({**told, "neck.weight": torch.zeros(1)}, tmp_path / "y.pth")
    with pytest.raises(WeightsError, match=r"no place for tensor 'neck\.weight'"):
        converter(name)([tmp_path / "y.pth"])


def test_bn_inception(tmp_path):
    state = randomized(har.TSNModule(1000, "bn_inception", pretrained=False).net)
    told = {}
    for name, tensor in state.items():
        name = name.replace("head.fc.", "last_linear.").removeprefix("backbone.net.")
        if not name.endswith("num_batches_tracked"):
            told[name] = tensor[None] if "_bn." in name else tensor
    torch.save(told, tmp_path / "bn.pth")
    module = converter("bn_inception")([tmp_path / "bn.pth"])
    assert same(module.net, state)
    assert (module.spec.channel_order, module.spec.mean) == ("bgr", (104.0, 117.0, 128.0))


def test_torchvision_s3d(tmp_path):
    import torchvision

    theirs = torchvision.models.video.s3d(num_classes=400).eval()
    torch.save(theirs.state_dict(), tmp_path / "s3d.pth")
    module = converter("torchvision_s3d")([tmp_path / "s3d.pth"]).eval()
    x = torch.rand(1, 3, 16, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(module.net(x), _s3d(theirs, x))
    assert module.spec.num_frames == 128
    assert module.class_names[1] == "air drumming"


def _s3d(theirs, x):
    maps = theirs.features(x)  # smaller than torchvision's fixed pool takes
    return theirs.classifier(maps.mean((2, 3, 4), keepdim=True)).mean((2, 3, 4))


def test_googlenet(tmp_path):
    import torchvision

    theirs = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    torch.save(theirs.state_dict(), tmp_path / "g.pth")
    module = converter("googlenet")([tmp_path / "g.pth"])
    weight = theirs.inception3a.branch2[1].conv.weight
    ours = module.net.Mixed_3b.b1b.conv3d.weight
    torch.testing.assert_close(ours.sum(2), weight)
    assert len(module.class_names) == 1000


@pytest.mark.parametrize("card", [c for c in CARDS.values() if c.converter], ids=lambda c: c.name)
def test_a_stranger_s_file_is_refused_by_every_converter(card, tmp_path):
    torch.save({"foo.weight": torch.zeros(3)}, tmp_path / "x.pth")
    files = [shutil.copy(tmp_path / "x.pth", tmp_path / Path(f.path).name) for f in card.upstream]
    with pytest.raises(WeightsError):
        converter(card.converter)([Path(f) for f in files])
    with pytest.raises(WeightsError, match="is refused: expected"):
        convert(card, files, tmp_path / "out")
    with pytest.raises(WeightsError):
        convert(card, files, tmp_path / "out", unverified=True)
    assert not (tmp_path / "out").exists()


def test_unknown_converter():
    with pytest.raises(ConfigError, match=r"no converter '\.\./x'; there are: bn_inception"):
        converter("../x")


# -- quantized MobileNetV2, for real -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if not TFLITE.is_file():
        pytest.skip("needs ../shared/data/mobilenet_v2")
    out = tmp_path_factory.mktemp("zoo") / "mobilenetv2-quantized-imagenet"
    odd = shutil.copy(TFLITE, out.parent / "under-any-name.bin")
    return out, convert(CARDS[out.name], [odd], out)


@pytest.mark.shared
def test_quantized_mobilenetv2_is_built_to_the_byte(built):
    out, card = built
    assert digests(out / "model.safetensors").sha256 == CARDS[out.name].sha256["model.safetensors"]
    assert not card.unverified
    assert card.upstream == CARDS[out.name].upstream
    assert read_card(out / "README.md") == card


@pytest.mark.shared
def test_quantized_mobilenetv2_sees_what_litert_sees(built):
    from PIL import Image

    module = har.load(built[0])
    expected = json.loads((SHARED / "expected.json").read_text())["top3"]
    for name, top in expected.items():
        image = np.asarray(Image.open(SHARED / name).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
        video = torch.from_numpy(image.copy()).permute(2, 0, 1)[None, :, None]
        with torch.no_grad():
            scores = module(video)[0].softmax(0) * 256
        for told in top:
            assert abs(float(scores[told["index"]]) - told["quantized_score"]) < 3
        assert int(scores.argmax()) == top[0]["index"]
    # the same clip, the study's features: codes averaged and divided by 255
    features = module.net.frame_features(video.float())
    assert features.shape == (1, 1, 1280)
    codes = features[0, 0] * 255 * 49
    torch.testing.assert_close(codes, codes.round(), atol=1e-2, rtol=0)


@pytest.mark.shared
def test_quantized_features_equal_litert(built):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    module = har.load(built[0])
    runner = litert.Interpreter(str(TFLITE), experimental_preserve_all_tensors=True)
    runner.allocate_tensors()
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    runner.set_tensor(runner.get_input_details()[0]["index"], pixels.permute(0, 2, 3, 1).contiguous().numpy())
    runner.invoke()
    pooled = next(d for d in runner.get_tensor_details() if list(d["shape"]) == [1, 7, 7, 1280])
    codes = torch.from_numpy(runner.get_tensor(pooled["index"]).astype(np.float32)).mean((1, 2))
    torch.testing.assert_close(module.net.frame_features(pixels.float()[:, :, None])[0], codes / 255)


# -- pins --------------------------------------------------------------------------------------------------


@pytest.fixture
def ckpt(tmp_path):
    """A Trainer's checkpoint of a small module, and a card that pins it."""
    import pytorch_lightning as pl

    module = tiny()
    trainer = pl.Trainer(max_epochs=0, logger=False, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False, accelerator="cpu")  # fmt: skip
    trainer.strategy.connect(module)
    path = tmp_path / "run" / "best.ckpt"
    path.parent.mkdir()
    trainer.save_checkpoint(path, weights_only=True)
    pin = Upstream("best.ckpt", "http://127.0.0.1:9/best.ckpt", git_blob_sha1=digests(path).git_blob_sha1)
    return path, Card("mine", license="MIT", converter="lightning_checkpoint", upstream=(pin,))


def test_a_checkpoint_that_matches_its_pin(ckpt, tmp_path):
    path, card = ckpt
    done = convert(card, [path], tmp_path / "out")
    assert (done.status, done.unverified) == ("built", False)
    assert done.upstream[0].sha256 == digests(path).sha256
    assert torch.equal(har.load(tmp_path / "out")(clip()), tiny()(clip()))
    assert done.golden == golden_outputs(tiny())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "nothing half made is left"


def test_a_weak_pin_is_told_and_the_full_digest_recorded(ckpt, tmp_path):
    path, card = ckpt
    sha256 = digests(path).sha256
    weak = replace(card, upstream=(Upstream("best.ckpt", "http://127.0.0.1:9/x", sha256_prefix=sha256[:8]),))
    assert "a weak pin" in weak.upstream[0].pin
    assert convert(weak, [path], tmp_path / "out").upstream[0].sha256 == sha256
    wrong = replace(weak, upstream=(replace(weak.upstream[0], sha256="0" * 64),))
    with pytest.raises(WeightsError, match="refused"):
        convert(wrong, [path], tmp_path / "out2")


def test_a_file_that_does_not_match_needs_unverified_and_is_marked(ckpt, tmp_path):
    path, card = ckpt
    other = replace(card, upstream=(Upstream("best.ckpt", "http://127.0.0.1:9/x", git_blob_sha1="0" * 40),))
    with pytest.raises(WeightsError, match=r"refused: expected best\.ckpt: git blob SHA-1 0{40}; got .*--unverified"):
        convert(other, [path], tmp_path / "out")
    done = convert(other, [path], tmp_path / "out", unverified=True)
    assert done.unverified
    assert done.upstream == (Upstream("best.ckpt", sha256=digests(path).sha256),)
    assert "**Unverified.**" in (tmp_path / "out" / "README.md").read_text()


def test_a_malicious_pickle_runs_nothing_even_unverified(ckpt, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "it-ran"),))

    torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "best.ckpt")
    for card in [ckpt[1], *(c for c in CARDS.values() if c.converter)]:
        files = [shutil.copy(tmp_path / "best.ckpt", tmp_path / f"{i}.bin") for i, _ in enumerate(card.upstream)]
        for unverified in (False, True):
            with pytest.raises(WeightsError):
                convert(card, files, tmp_path / "out", unverified=unverified)
    assert not (tmp_path / "it-ran").exists()


def test_parts_of_a_checkpoint_are_known_by_digest(tmp_path):
    state = {k: torch.ones_like(v) if k.endswith("bn.weight") else v for k, v in randomized(I3D(2)).items()}
    write_bundle(tmp_path / "model.ckpt", as_tensorflow(state, "RGB"))
    index, data = tmp_path / "model.ckpt.index", tmp_path / "model.ckpt.data-00000-of-00001"
    pins = tuple(Upstream(f"data/{p.name}", "http://x/", git_blob_sha1=digests(p).git_blob_sha1) for p in (index, data))
    card = Card("i3d", converter="i3d_tensorflow", upstream=pins)
    files = [data.rename(tmp_path / "b"), index.rename(tmp_path / "a")]
    found, _ = building._identify(card, files, unverified=False)
    assert found == {"data/model.ckpt.index": tmp_path / "a", "data/model.ckpt.data-00000-of-00001": tmp_path / "b"}
    with pytest.raises(WeightsError, match="the same one was given twice"):
        convert(card, [files[0], files[0]], tmp_path / "out", unverified=True)
    with pytest.raises(WeightsError, match=r"is made from data/model\.ckpt\.index, .*; 1 files were given"):
        convert(card, files[:1], tmp_path / "out")


# -- golden checks -----------------------------------------------------------------------------------------


def test_golden_check_catches_another_network(ckpt, tmp_path):
    path, card = ckpt
    golden = {"action": {"first": [9.0, 9.0, 9.0, 9.0], "argmax": 0}}
    with pytest.raises(WeightsError, match=r"fails its golden check: expected .*9\.0"):
        convert(replace(card, golden=golden), [path], tmp_path / "out")
    with pytest.raises(WeightsError, match="its card says 5: not this network"):
        convert(replace(card, parameters=5), [path], tmp_path / "out")
    module = tiny()
    module.net.head.fc.bias.data[0] = float("nan")
    with pytest.raises(WeightsError, match="is no prediction"):
        golden_outputs(module)
    good = golden_outputs(tiny())
    compare({"action": {**good["action"], "first": [v + 1e-4 for v in good["action"]["first"]]}}, good, "x")
    with pytest.raises(WeightsError, match="golden"):
        compare({}, good, "x")


def test_golden_check_catches_a_fault_in_writing(ckpt, tmp_path, monkeypatch):
    path, card = ckpt
    write = building.save

    def faulty(module, folder, card, **how):
        module.net.head.fc.bias.data[0] += 1
        write(module, folder, card, **how)

    monkeypatch.setattr(building, "save", faulty)
    with pytest.raises(WeightsError, match="reads back as another network"):
        convert(card, [path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_checkpoint_is_left_alone(ckpt, tmp_path):
    path, card = ckpt
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(WeightsError, match="is no checkpoint; it is left as it is"):
        convert(card, [path], tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").is_file()


# -- build -------------------------------------------------------------------------------------------------


def test_build_fetches_checks_and_converts(ckpt, hub, tmp_path):
    path, card = ckpt
    hub.lfs["a"] = path.read_bytes()
    here = replace(card, upstream=(replace(card.upstream[0], url=f"{hub.cdn_url}/cdn/a"),))
    assert build(here, tmp_path / "out").status == "built"
    hub.lfs["b"] = path.read_bytes()[:-1] + b"x"
    there = replace(card, upstream=(replace(card.upstream[0], url=f"{hub.cdn_url}/cdn/b"),))
    with pytest.raises(WeightsError, match=r"mine: best\.ckpt from .* is refused, fetched twice: expected git blob"):
        build(there, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_what_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    told = r"is not fetched but trained: lightning-har run recipes/quickstart\.py --out RUN; then .* convert quickstart"
    with pytest.raises(WeightsError, match=told):
        build(CARDS["quickstart"], tmp_path / "out")
    with pytest.raises(WeightsError, match="no pinned source to fetch"):
        build(Card("mine", converter="lightning_checkpoint", upstream=(Upstream("best.ckpt"),)), tmp_path / "out")
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path))
    with pytest.raises(WeightsError, match="no checkpoint 'mobilenetv2-gru-ucf101'"):
        build(CARDS["mobilenetv2-gru-ucf101-int8"], tmp_path / "out")


# -- a run's own -------------------------------------------------------------------------------------------

LIST = "a" * 64


def write_report(checkpoint, **changes):
    """The report of a run beside its checkpoint."""
    report = {
        "recipe": "study/gru",
        "protocol": {"data": "UCF101", "split": "test, fold 1", "file_list_sha256": LIST, "views": 10, "crop": "ten"},
        "hardware": {"cpu": "a CPU", "threads": 2, "accelerator": "cpu"},
        "cost": {"parameters": 373076, "macs": 1000, "checkpoint_sha256": digests(checkpoint).sha256},
        "files": {"scored": 100, "skipped": 0},
        "metrics": {"test": {"action": {"video": {"top1": 0.755, "top5": 0.9}, "clip": {"top1": 0.5}}}},
        "latency": {"p50_ms": 3.25},
        "seed": 3,
        "commit": "abc",
        "note": None,
    }
    checkpoint.with_name("report.json").write_text(json.dumps(report | changes))


@pytest.fixture
def run(ckpt):
    """A run's folder, and a card that pins no digest of it."""
    path, card = ckpt
    write_report(path)
    return path.parent, replace(card, recipe="recipes/study.py", upstream=(Upstream("best.ckpt"),))


def test_a_run_s_report_becomes_results_and_protocol(run, tmp_path):
    folder, card = run
    done = convert(card, [folder], tmp_path / "out")
    assert not done.unverified, "the report names the checkpoint's digest"
    assert [(r.metric, r.value, r.split, r.published) for r in done.results] == [
        ("top-1", 75.5, "test, fold 1", False),
        ("top-5", 90.0, "test, fold 1", False),
    ]
    told = done.protocol
    assert (told.file_list_sha256, told.views, told.crop, told.seed, told.commit) == (LIST, 10, "ten", 3, "abc")
    assert (told.hardware, told.cost) == (
        "a CPU, 2 threads, cpu",
        "373,076 parameters, 1,000 MACs a clip, 3.2 ms a clip (median)",
    )
    assert done.upstream == (Upstream("best.ckpt", sha256=digests(folder / "best.ckpt").sha256),)
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"file list sha256: {LIST}" in text
    assert "| UCF101 | test, fold 1 | top-1 | 75.5 % | measured |" in text
    before = digests(tmp_path / "out" / "model.safetensors")
    convert(card, [folder / "best.ckpt"], tmp_path / "again")
    assert digests(tmp_path / "again" / "model.safetensors") == before, "the same bytes again"


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"recipe": "other"}, r"is trained by recipes/study\.py; .*report\.json is of a run of other"),
        (
            {"cost": {"parameters": 1, "macs": None, "checkpoint_sha256": "0" * 64}},
            "refused: expected best.ckpt: SHA-256 0",
        ),
        ({"cost": 3}, "report.json is not a report of this library"),
        ({"metrics": {"test": {"action": 3}}}, "report.json is not a report of this library"),
        ({"protocol": {}}, "report.json is not a report of this library"),
    ],
)
def test_a_report_of_something_else_is_refused(run, tmp_path, report, told):
    folder, card = run
    write_report(folder / "best.ckpt", **report)
    with pytest.raises(WeightsError, match=told):
        convert(card, [folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_of_another_checkpoint_are_not_taken_even_unverified(run, tmp_path):
    folder, card = run
    cost = {"parameters": 1, "macs": None, "checkpoint_sha256": "0" * 64}
    write_report(folder / "best.ckpt", cost=cost)
    with pytest.raises(WeightsError, match="is the report of another best"):
        convert(card, [folder], tmp_path / "out", unverified=True)
    (folder / "report.json").unlink()
    done = convert(card, [folder], tmp_path / "out", unverified=True)
    assert (done.unverified, done.results) == (True, ())


def test_what_a_report_leaves_out_or_notes_is_told(run, tmp_path):
    folder, card = run
    write_report(folder / "best.ckpt", files={"scored": 98, "skipped": 2}, note="Trained on all data.")
    done = convert(replace(card, notes="Of a study."), [folder], tmp_path / "out")
    assert {r.split for r in done.results} == {"test, fold 1, without 2 unreadable videos"}
    assert done.notes == "Of a study. Trained on all data."


def test_a_run_on_other_clips_is_not_the_card_s_checkpoint(run, tmp_path):
    folder, card = run
    listed = replace(card, protocol=Protocol(file_list_sha256="b" * 64))
    with pytest.raises(WeightsError, match=r"scored on the list of clips b{64}.*Run recipes/study\.py as it is"):
        convert(listed, [folder], tmp_path / "out")
    convert(replace(card, protocol=Protocol(file_list_sha256=LIST)), [folder], tmp_path / "out")


def test_a_folder_of_runs_names_them(run, tmp_path):
    folder, card = run
    with pytest.raises(WeightsError, match=rf"has no best\.ckpt, .*Give one of {folder}"):
        convert(card, [folder.parent], tmp_path / "out")


def test_a_run_on_features_is_not_a_checkpoint_for_video(run, tmp_path):
    import pytorch_lightning as pl

    folder, card = run
    module = har.CNNRNNModule(3, backbone=None, feature_dim=7, hidden=5)
    trainer = pl.Trainer(max_epochs=0, logger=False, enable_progress_bar=False, enable_model_summary=False,
                         enable_checkpointing=False, accelerator="cpu")  # fmt: skip
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "best.ckpt", weights_only=True)
    write_report(folder / "best.ckpt")
    with pytest.raises(WeightsError, match="was trained on stored features and has no backbone"):
        convert(card, [folder], tmp_path / "out")


def test_the_quickstart_s_list_of_clips_is_the_card_s(tmp_path):
    """Known before anything is rendered; and it is what the recipe is scored on."""
    from lightning_har.data._clips import Parameters
    from lightning_har.data.manifest import Manifest
    from lightning_har.data.synthetic import _table

    (tmp_path / "manifest.csv").write_text(_table(Parameters((80, 8, 16), 64, 0)))
    test = Manifest.from_csv(tmp_path / "manifest.csv").by_split()["test"]
    assert CARDS["quickstart"].protocol.file_list_sha256 == test.sha256()


# -- 8 bits ------------------------------------------------------------------------------------------------


@pytest.fixture
def floats(tmp_path):
    """A float checkpoint in a zoo folder, and the card of its 8-bit form."""
    module = har.CNNRNNModule(
        4, backbone="test_resnet", pretrained=False, input_size=32, num_frames=3, hidden=64
    ).eval()
    result = Result("UCF101", "top-1", 75.5, "test")
    folder = module.save_pretrained(tmp_path / "zoo" / "gru", card=Card("gru", results=(result,)))
    upstream = (Upstream("model.safetensors"), Upstream("config.json"))
    return folder, module, Card("gru-int8", converter="int8", base_model="gru", upstream=upstream)


def test_the_8_bit_form_of_a_checkpoint(floats, tmp_path):
    folder, module, card = floats
    done = convert(card, [folder], tmp_path / "int8")
    assert (done.status, done.unverified, done.base_model) == ("built", False, "gru")
    assert done.results == (), "the float checkpoint's numbers are not its own"
    assert [file.sha256 for file in done.upstream] == [digests(folder / f.path).sha256 for f in card.upstream]
    loaded = har.load(tmp_path / "int8")
    assert golden_outputs(loaded) == done.golden
    near = (loaded(clip()) - module(clip())).abs().max()
    assert 0 < near < 0.05
    size = [(place / "model.safetensors").stat().st_size for place in (tmp_path / "int8", folder)]
    assert size[0] < 0.4 * size[1]


def test_the_8_bit_form_is_built_from_the_zoo(floats, tmp_path):
    folder, _, card = floats
    done = build(card, tmp_path / "int8", zoo=find_zoo(folder.parent))
    assert done.sha256 == convert(card, [folder], tmp_path / "again").sha256


def test_the_8_bit_form_of_another_checkpoint_is_refused(floats, tmp_path):
    folder, module, card = floats
    with pytest.raises(WeightsError, match=r"refused: expected model\.safetensors: not pinned"):
        convert(replace(card, base_model="lstm"), [folder], tmp_path / "int8")
    other = module.save_pretrained(tmp_path / "other", card=Card("gru", unverified=True))
    with pytest.raises(WeightsError, match="refused"):
        convert(card, [other], tmp_path / "int8")
    assert convert(card, [other], tmp_path / "int8", unverified=True).unverified
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"refused: expected model\.safetensors: SHA-256"):
        convert(card, [folder], tmp_path / "int8b")
