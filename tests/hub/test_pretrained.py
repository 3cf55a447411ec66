"""Checkpoint folders: what is saved is what is loaded; what is damaged, foreign or dangerous is refused by name."""

import copy
import io
import json
import os
import pickle
import shutil
import stat

import pytest
import torch
from hub_models import clip, tiny
from torch import nn

import lightning_har as har
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.spec import InputSpec, Sampling
from lightning_har.weights.card import read_card
from lightning_har.weights.fetch import digests
from lightning_har.weights.hub import CONFIG, README, WEIGHTS, problems
from lightning_har.weights.in_place import read_into, read_places
from lightning_har.weights.safetensors_io import save_safetensors

SMALL = {"backbone": "test_resnet", "pretrained": False, "input_size": 32}
MODULES = {
    "tsn": lambda: har.TSNModule(3, num_segments=2, consensus="weighted", class_weights=[1.0, 2.0, 0.5], **SMALL),
    "gru": lambda: har.CNNRNNModule(3, num_frames=4, hidden=5, head_width=6, **SMALL),
    "features": lambda: har.CNNRNNModule(3, backbone=None, feature_dim=7, num_frames=4, hidden=5),
    "heads": lambda: har.TSNModule({"verb": 3, "noun": 2}, **SMALL),
    "quantized": lambda: har.CNNRNNModule(3, "mobilenetv2_quant", "avg", pretrained=False, num_frames=2),
    "two_stream": lambda: har.TwoStreamModule(3, "tsn", {**SMALL, "num_segments": 1}, weight=0.3),
    "i3d": lambda: har.I3DModule(3, "test_resnet", pretrained=False, num_frames=4, input_size=32),
}


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def rewrite(folder, **changes):
    """Change config.json and let all digests agree with it."""
    config = json.loads((folder / CONFIG).read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key)
        else:
            config[key] = value
    (folder / CONFIG).write_text(json.dumps(config))
    agree(folder)


def agree(folder):
    config = json.loads((folder / CONFIG).read_text())
    config["sha256"] = {WEIGHTS: digests(folder / WEIGHTS).sha256}
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / README).unlink(missing_ok=True)


@pytest.mark.parametrize("name", MODULES)
def test_what_is_saved_is_what_is_loaded(name, tmp_path):
    module = MODULES[name]()
    for tensor in module.net.state_dict().values():  # other than freshly built ones
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.01)
    loaded = har.load(module.save_pretrained(tmp_path / name))
    assert type(loaded) is type(module)
    assert not loaded.training
    ours, theirs = module.net.state_dict(), loaded.net.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)
    assert (loaded.spec, loaded.num_classes) == (module.spec, module.num_classes)
    assert loaded.options == {k: list(v) if isinstance(v, tuple) else v for k, v in module.options.items()} or (
        loaded.options == module.options
    )
    assert not problems(tmp_path / name, digest=digests)


def test_preprocessing_protocol_and_names_travel(tmp_path):
    module = tiny()
    module.spec = InputSpec(5, (40, 30), (0.0, 255.0), (104.0, 117.0, 128.0), (1.0,), "bgr")
    module.eval_sampling = Sampling("segments", num_frames=25, crop="ten", short_side=256)
    loaded = har.TSNModule.from_pretrained(module.save_pretrained(tmp_path / "x"))
    assert (loaded.spec, loaded.eval_sampling) == (module.spec, module.eval_sampling)
    assert loaded.class_names == ("run", "jump", "wave", "sit")


def test_own_subclasses_load_by_their_class(tmp_path):
    class Mine(har.TSNModule):
        pass

    path = Mine(4, **SMALL).save_pretrained(tmp_path / "mine")
    assert type(Mine.from_pretrained(path)) is Mine
    with pytest.raises(WeightsError, match=r"Mine.*not a class of this library: use Mine\.from_pretrained"):
        har.load(path)


def test_another_class_is_named(checkpoint):
    assert type(ActionRecognizer.from_pretrained(checkpoint)) is har.TSNModule
    with pytest.raises(WeightsError, match=r"is a TSNModule, not I3DModule: use TSNModule\.from_pretrained"):
        har.I3DModule.from_pretrained(checkpoint)


@pytest.mark.parametrize("classes", [7, 4, {"verb": 4, "noun": 2}])
def test_num_classes_replaces_the_head_only_and_says_so(checkpoint, classes, caplog):
    old, new = tiny(), har.TSNModule.from_pretrained(checkpoint, num_classes=classes)
    for name, tensor in new.net.state_dict().items():
        if name.startswith("head."):
            assert name in caplog.text
            assert name not in old.net.state_dict() or not torch.equal(tensor, old.net.state_dict()[name])
        else:
            assert torch.equal(tensor, old.net.state_dict()[name])
            assert name not in caplog.text
    assert new.class_names is None
    assert new.num_classes == classes
    assert new.hparams["num_classes"] == classes


def test_no_classes_gives_features(checkpoint, caplog):
    module = har.load(checkpoint, num_classes=0)
    assert torch.equal(module(clip()), tiny(0)(clip()))
    assert "head.fc.weight" in caplog.text


def test_a_head_with_a_neck_keeps_the_neck(tmp_path):
    module = MODULES["gru"]()
    path = module.save_pretrained(tmp_path / "gru")
    new = har.load(path, num_classes=5)
    assert torch.equal(new.net.neck[1].weight, module.net.neck[1].weight)
    assert new.net.head.fc.out_features == 5


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_one_flipped_byte_is_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"refused: .*{name}: .*promises SHA-256|damaged"):
        har.load(folder)


def test_digests_are_remembered_until_the_file_changes(folder, monkeypatch):
    har.load(folder)
    monkeypatch.setattr("lightning_har.weights.hub.digests", lambda path: pytest.fail(f"{path} was digested again"))
    har.load(folder)
    monkeypatch.undo()
    status = (folder / WEIGHTS).stat()
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    os.utime(folder / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))  # hides it from the modification time
    with pytest.raises(WeightsError, match="refused"):
        har.load(folder)


def test_safetensors_cut_anywhere_are_a_typed_error(folder):
    content = (folder / WEIGHTS).read_bytes()
    header = int.from_bytes(content[:8], "little")
    places = {0, 1, 7, 8, 9, 8 + header // 2, 8 + header - 1, 8 + header, 9 + header, len(content) - 1}
    places |= {len(content) * i // 11 for i in range(1, 11)}
    assert len(places) == 20
    for cut in sorted(places):
        (folder / WEIGHTS).write_bytes(content[:cut])
        agree(folder)  # so that it is the reader that must notice
        with pytest.raises(WeightsError, match=r"damaged, cut short or not safetensors"):
            har.load(folder)


def test_a_file_that_shrinks_while_it_is_read(folder):
    places = read_places(folder / WEIGHTS)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="ends within"):
        read_into(folder / WEIGHTS, places, tiny().net.state_dict())


class Bomb:
    """Runs code when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch_old"])
@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "model.ckpt"])
def test_pickles_under_any_name_run_nothing(folder, tmp_path, kind, name):
    bomb, trace = io.BytesIO(), tmp_path / "it-ran"
    if kind == "pickle":
        pickle.dump(Bomb(trace), bomb)
    else:
        torch.save({"a": Bomb(trace)}, bomb, _use_new_zipfile_serialization=kind == "torch")
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(bomb.getvalue())
    if name == WEIGHTS:
        agree(folder)
    with pytest.raises(WeightsError, match=r"pickle|could run code|damaged"):
        har.load(folder)
    with pytest.raises(WeightsError, match="is a file; a checkpoint is a folder"):
        har.load(folder / name)
    assert not trace.exists()


def test_a_config_cannot_name_foreign_code_or_other_weights(folder, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(folder, module="evil", **{"class": "Evil"})
    with pytest.raises(WeightsError, match="not a class of this library"):
        har.load(folder)
    rewrite(folder, module="lightning_har.modules.tsn", **{"class": "nn"})
    with pytest.raises(WeightsError, match="has no nn"):
        har.load(folder)
    fetched = []
    monkeypatch.setattr("timm.create_model", lambda *a, **k: fetched.append(k) or pytest.fail("unreachable"))
    config = json.loads((folder / CONFIG).read_text())
    rewrite(folder, **{"class": "TSNModule"}, hyperparameters={**config["hyperparameters"], "pretrained": True})
    with pytest.raises(BaseException, match="unreachable"):
        har.load(folder)
    assert [k["pretrained"] for k in fetched] == [False]


def test_a_newer_format_says_what_is_needed(folder):
    rewrite(folder, format_version=9, requires_version="3.1.0")
    with pytest.raises(WeightsError, match=r"has format 9.*reads up to 1.*pip install -U 'lightning-har>=3\.1\.0'"):
        har.load(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"library": "timm"}, "another library's checkpoint"),
        ({"hyperparameters": None}, "hyperparameters missing"),
        ({"hyperparameters": {"num_classes": 4, "wings": 2}}, r"cannot be built.*wings"),
        ({"input_spec": {"num_frames": 3, "size": [0, 0]}}, "bad preprocessing"),
        ({"eval_sampling": {"scheme": "psychic"}}, "bad preprocessing"),
        ({"hyperparameters": {"backbone": 5}}, r"cannot be built.*AttributeError"),
        ({"hyperparameters": {"backbone": "test_resnet", "input_size": 32, "dropout": 7}}, "cannot be built.*dropout"),
        ({"num_classes": -1}, "cannot be built"),
        ({"class_names": 5}, "bad class names"),
        ({"class_names": ["run", "jump"]}, "bad class names; it needs one for each of 4"),
        (
            {"num_classes": 5, "class_names": None},
            r"do not fit TSN: 2 of another shape: head\.fc\.bias \(expected \(5,\), given \(4,\)\)",
        ),
    ],
)
def test_a_bad_config_is_named(folder, changes, told):
    rewrite(folder, **changes)
    with pytest.raises(WeightsError, match=told):
        har.load(folder)


WRONG = [None, True, -1, "x\0y", [[]], {"a": [{}]}]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_whatever_stands_in_a_config_it_is_loaded_or_refused_by_name(folder, wrong):
    config = json.loads((folder / CONFIG).read_text())
    (folder / README).unlink()
    inner = [(key, one) for key, value in config.items() if isinstance(value, dict) for one in value]
    for place in [(key,) for key in config] + inner:
        values = copy.deepcopy(config)
        if len(place) == 1:
            values[place[0]] = wrong
        else:
            values[place[0]][place[1]] = wrong
        (folder / CONFIG).write_text(json.dumps(values))
        try:
            har.load(folder)
        except WeightsError as error:
            assert str(folder) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"3", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"library": "lightning'],
)
def test_a_config_of_another_shape(folder, text):
    (folder / CONFIG).write_bytes(text)
    (folder / README).unlink()
    with pytest.raises(WeightsError, match=rf"{CONFIG} (is damaged|was not written by)"):
        har.load(folder)
    assert set(problems(folder)) == {WEIGHTS}, "nobody gives its digest"


def test_a_config_without_digests(folder):
    config = json.loads((folder / CONFIG).read_text())
    del config["sha256"]
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / README).unlink()
    with pytest.raises(WeightsError, match=r"neither config\.json nor README\.md gives its digest"):
        har.load(folder)


def test_flipped_bits_of_the_header_never_escape_as_another_error(folder):
    content = (folder / WEIGHTS).read_bytes()
    random = torch.Generator().manual_seed(0)
    for at in torch.randint(int.from_bytes(content[:8], "little") + 8, (25,), generator=random).tolist():
        flipped = bytearray(content)
        flipped[at] ^= 1 << (at % 8)
        (folder / WEIGHTS).write_bytes(flipped)
        agree(folder)
        with pytest.raises(WeightsError, match=str(folder)):
            har.load(folder)


def test_names_that_are_not_the_classes_are_not_saved(tmp_path):
    module = tiny()
    module.class_names = ("run", "jump")
    with pytest.raises(ConfigError, match="class_names has other names"):
        module.save_pretrained(tmp_path / "x")


def test_tensors_that_do_not_fit_are_named(folder):
    state = tiny().net.state_dict()
    state["extra.weight"] = torch.zeros(2)
    state["head.fc.weight"] = torch.zeros(4, 5)
    del state["head.fc.bias"]
    save_safetensors(state, folder / WEIGHTS)
    agree(folder)
    told = (
        r"1 missing: head\.fc\.bias; 1 left over: extra\.weight; 1 of another shape: head\.fc\.weight "
        r"\(expected \(4, 96\), given \(4, 5\)\)\. Check that"
    )
    with pytest.raises(WeightsError, match=told):
        har.load(folder)


def test_other_number_types_are_converted(folder):
    state = {k: v.half() if v.is_floating_point() else v for k, v in tiny().net.state_dict().items()}
    save_safetensors(state, folder / WEIGHTS)
    agree(folder)
    loaded = har.load(folder).net.state_dict()
    assert all(v.dtype != torch.float16 and torch.equal(v, state[k].to(v.dtype)) for k, v in loaded.items())


def test_an_argument_that_is_no_json_is_named(tmp_path):
    module = tiny()
    module.hparams["lr"] = float("nan")
    with pytest.raises(ConfigError, match="argument lr is nan"):
        module.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_written(tmp_path):
    os.umask(0o022)
    module = tiny(teacher="/home/somebody/secret.ckpt")
    path = module.save_pretrained(tmp_path / "a name!")
    assert sorted(p.name for p in path.iterdir()) == sorted([WEIGHTS, CONFIG, README])
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.iterdir()} == {0o644}
    assert "somebody" not in (path / CONFIG).read_text() + (path / README).read_text()
    card = read_card(path / README)
    assert card.name == "a-name"
    assert card.sha256 == {n: digests(path / n).sha256 for n in (WEIGHTS, CONFIG)}


def test_the_card_counts_integer_weights_too(tmp_path):
    folder = MODULES["quantized"]().save_pretrained(tmp_path / "q")
    of_features, of_their_classifier, of_the_head = 2_206_816, 1280 * 1001 + 1001, 1280 * 3 + 3
    assert read_card(folder / README).parameters == of_features + of_their_classifier + of_the_head


def test_weights_are_prepared_by_their_modules_hooks(tmp_path):
    """Reading in place passes load_state_dict by; its hooks must run all the same."""
    module = MODULES["quantized"]()
    layer = module.net.backbone.net[0]
    layer.bias.fill_(2**24)
    module.net.load_state_dict(module.net.state_dict())
    assert layer.precision is torch.float64
    loaded = har.load(module.save_pretrained(tmp_path / "q"))
    assert loaded.net.backbone.net[0].precision is torch.float64


def test_map_location(checkpoint):
    assert {p.device.type for p in har.load(checkpoint, map_location="meta").parameters()} == {"meta"}
    assert isinstance(har.load(checkpoint, map_location=torch.device("cpu")).net, nn.Module)
