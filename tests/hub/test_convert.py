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
from lightning_har.weights.card import Card, Upstream, read_card
from lightning_har.weights.fetch import digests

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

    def faulty(module, folder, card):
        module.net.head.fc.bias.data[0] += 1
        write(module, folder, card)

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


def test_what_cannot_be_fetched_says_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"comes from a run of recipes/quickstart\.py.*zoo convert quickstart FILE"):
        build(CARDS["quickstart"], tmp_path / "out")
    with pytest.raises(WeightsError, match=r"it is made by lightning_har\.edge"):
        build(CARDS["mobilenetv2-gru-ucf101-int8"], tmp_path / "out")


def test_a_run_s_report_becomes_results_and_protocol(ckpt, tmp_path):
    path, card = ckpt
    report = {
        "protocol": {
            "data": "UCF101",
            "split": "test, fold 1",
            "file_list_sha256": "a" * 64,
            "views": 10,
            "crop": "ten",
        },
        "hardware": {"cpu": "a CPU", "threads": 2, "accelerator": "cpu"},
        "cost": {"parameters": 373076, "macs": 1000},
        "metrics": {"test": {"action": {"video": {"top1": 0.755, "top5": 0.9}, "clip": {"top1": 0.5}}}},
        "seed": 3,
        "commit": "abc",
    }
    path.with_name("report.json").write_text(json.dumps(report))
    done = convert(card, [path], tmp_path / "out")
    assert [(r.metric, r.value, r.published) for r in done.results] == [("top-1", 75.5, False), ("top-5", 90.0, False)]
    assert (done.protocol.file_list_sha256, done.protocol.views, done.protocol.seed) == ("a" * 64, 10, 3)
    path.with_name("report.json").write_text("{}")
    with pytest.raises(WeightsError, match="not a report"):
        convert(card, [path], tmp_path / "out2")
