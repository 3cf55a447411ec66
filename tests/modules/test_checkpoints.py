"""A module's checkpoint: read without fetching, and refused by name where it is damaged or does not fit."""

import re
from functools import partial

import pytest
import torch
from module_runs import SIZE, T, clips, cnn_rnn, loader, trainer, tsn

from lightning_har import CNNRNNModule, Sampling
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules import load_checkpoint
from lightning_har.types import to_class_names


def test_checkpoint_loads_without_fetching(tmp_path, monkeypatch):
    module = cnn_rnn(temporal="lstm")
    module.hparams["pretrained"] = True  # as if its weights had been fetched
    module.class_names = ("a", "b", "c", "d")
    module.eval_sampling = Sampling("dense", time_stride=2, crop="three")
    fit = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
    fit.fit(module, loader())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    import timm

    built = timm.create_model

    def refuse(*args, pretrained=False, **kwargs):
        assert not pretrained, "loading a checkpoint fetched weights"
        return built(*args, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", refuse)
    again = load_checkpoint(tmp_path / "x.ckpt")
    assert type(again) is CNNRNNModule
    assert again.class_names == module.class_names
    assert again.eval_sampling == module.eval_sampling
    x = clips(2, 3, T, SIZE, SIZE)
    torch.testing.assert_close(again(x), module.eval()(x), atol=0, rtol=0)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.ckpt")
    for content in (b"junk", b""):
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(WeightsError, match=r"x\.ckpt is no PyTorch file"):
            load_checkpoint(tmp_path / "x.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="another library wrote it"):
        load_checkpoint(tmp_path / "other.ckpt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "x.ckpt"
    fit = trainer()
    fit.strategy.connect(cnn_rnn())
    fit.save_checkpoint(path, weights_only=True)
    return path


def refused(path):
    with pytest.raises(WeightsError) as error:
        load_checkpoint(path)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_checkpoint_that_is_cut_or_overwritten(saved, tmp_path):
    data, path = saved.read_bytes(), tmp_path / "x.ckpt"
    for keep in (4, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        assert f"{path} is damaged or cut short" in refused(path)
    parts = [found.start() for found in re.finditer(b"PK\x03\x04", data)]  # a head of each tensor, among others
    for start in (0, 100, 400, len(data) - 400, len(data) - 40, parts[len(parts) // 2]):
        path.write_bytes(data[:start] + bytes(40) + data[start + 40 :])
        assert str(path) in refused(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden": 16}, r"x\.ckpt: the weights do not fit CNNRNNModule: .* \(expected \(.*16.*\), given \(.*8.*\)\)"),
        ({"temporal": "avg"}, r"x\.ckpt: the weights do not fit CNNRNNModule: .*left over: net\."),
        ({"backbone": "no_such_network"}, r"x\.ckpt cannot be built as its arguments say: no backbone"),
        ({"shape_of_things": 1}, r"x\.ckpt cannot be built as its arguments say: unexpected argument shape_of_things"),
    ],
)
def test_a_checkpoint_that_another_version_wrote(saved, tmp_path, arguments, words):
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["hyper_parameters"] |= arguments
    checkpoint["lightning_har"]["version"] = "0.0.1"
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert re.search(rf"{words}.*\. It was written by lightning_har 0\.0\.1, .*install", refused(tmp_path / "x.ckpt"))


def test_a_checkpoint_of_a_class_that_is_not_here(saved, tmp_path):
    checkpoint, path = torch.load(saved, weights_only=True), tmp_path / "x.ckpt"
    for module, cls in (("lightning_har.modules.cnn_rnn", "Gone"), ("lightning_har.gone", "CNNRNNModule")):
        checkpoint["lightning_har"] |= {"module": module, "class": cls}
        torch.save(checkpoint, path)
        assert f"{path} is of {module}.{cls}, which is not here. It was written by" in refused(path)


def test_weights_that_do_not_fit_are_named_by_the_trainer_too(saved, tmp_path):
    with pytest.raises(WeightsError, match=rf"the weights in {saved} do not fit CNNRNNModule: .*config\.yaml"):
        trainer().test(cnn_rnn(temporal="avg"), loader(), ckpt_path=saved, verbose=False)
    with pytest.raises(WeightsError, match=r"the weights in .*, of a CNNRNNModule, do not fit TSNModule"):
        trainer().test(tsn(), loader(), ckpt_path=saved, verbose=False)
    with pytest.raises(WeightsError, match=rf"^{saved}: the weights do not fit CNNRNNModule: .* of another shape"):
        CNNRNNModule.load_from_checkpoint(saved, hidden=16)
    module, state = cnn_rnn(), torch.load(saved, weights_only=True)["state_dict"]
    name, *_ = state
    missing, extra = module.load_state_dict({name: state[name], "more": torch.zeros(1)}, strict=False)
    assert extra == ["more"]
    assert missing
    assert name not in missing
    with pytest.raises(WeightsError, match=rf"fit CNNRNNModule: 1 of another shape: {name} \(expected") as error:
        module.load_state_dict({name: torch.zeros(1, 2), "more": torch.zeros(1)}, strict=False)
    assert "given (1, 2)" in str(error.value)
    assert "more" not in str(error.value).partition("given")[0]


NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("theirs", "ours", "fits"),
    [
        (NAMES, NAMES, True),  # a script's list, where a data module has a tuple
        (NAMES, None, True),
        (None, NAMES, True),
        (NAMES, NAMES[::-1], False),
        (NAMES, ["a", "b", "c", "e"], False),
        ({"verb": NAMES}, {"verb": tuple(NAMES)}, True),
        ({"verb": NAMES}, {"verb": NAMES[::-1]}, False),
    ],
)
def test_a_trainer_takes_no_checkpoint_of_other_classes(tmp_path, theirs, ours, fits):
    heads = {"verb": 4} if isinstance(theirs, dict) else None
    module, other = (cnn_rnn(heads or 4) for _ in range(2))
    module.class_names, other.class_names = theirs, ours
    fit = trainer()
    fit.strategy.connect(module)
    fit.save_checkpoint(tmp_path / "x.ckpt")
    test = partial(trainer().test, other, loader(heads=heads), ckpt_path=tmp_path / "x.ckpt", verbose=False)
    if fits:
        test()
        assert to_class_names(other.class_names) == to_class_names(theirs or ours)
        return
    with pytest.raises(ConfigError) as error:
        test()
    _, of_checkpoint, of_module = str(error.value).splitlines()
    assert of_checkpoint.endswith("(4) a, b, c, d")
    assert of_module.endswith(("(4) d, c, b, a", "(4) a, b, c, e"))
