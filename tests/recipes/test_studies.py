"""The settings and figures of the studies, as ../shared/SYSTEMS.md has them, and what is chosen where it is silent."""

import importlib
import runpy
from pathlib import Path

import pytest

from lightning_har.arguments import split_partial
from lightning_har.bench.harness import read_reported
from lightning_har.callbacks import EarlyStopping
from lightning_har.modules.options import DEFAULTS
from lightning_har.spec import Sampling

RECIPES = Path(__file__).resolve().parents[2] / "recipes"

ADAM = {"optimizer": "adam", "schedule": "none", "weight_decay": 0.0}
SGD = {"optimizer": "sgd", "schedule": "step", "gamma": 0.1, "momentum": 0.9}
SPLIT_1 = {"split": 1, "val_fraction": 0.1}
EVENLY = Sampling("uniform", crop="full")
STOPS = {"monitor": "val_loss", "mode": "min", "patience": 10}

# A: Adam at 0.002, batch 16. The clip's length is not given.
I3D = {**ADAM, "backbone": "inception_v1", "num_frames": 64, "input_size": 224, "lr": 2e-3, "batch_size": 16}
I3D_UCF101 = {**I3D, **SPLIT_1, "pretrained": True, "value_range": (0.0, 1.0), "max_epochs": 50}
TWO_STREAM = {"family": "i3d", "weight": 0.5, "choose_weight": False, "average": "logits", "batch_size": 16}
TSN = {
    **SGD, **SPLIT_1, "num_segments": 3, "consensus": "avg", "modality": "rgb", "pretrained": True, "partial_bn": True,
    "dropout": 0.8, "lr": 1e-3, "weight_decay": 5e-4, "milestones": (30, 60), "batch_size": 128, "max_epochs": 80,
    "eval_sampling": Sampling("segments", num_frames=25, crop="center"),
}  # fmt: skip
# B: half of the time at a tenth of the learning rate.
MINI_KINETICS = {
    **SGD, "pretrained": False, "num_frames": 64, "input_size": 224, "lr": 0.01, "weight_decay": 0.0,
    "milestones": (100,), "max_epochs": 200, "classes": 5, "train_clips": 400, "test_clips": 25, "batch_size": 5,
}  # fmt: skip
EPIC = {
    **ADAM, "backbone": "mobilenetv2_100", "freeze_backbone": True, "pretrained": True, "cut_after": None,
    "num_frames": 20, "input_size": 256, "dropout": 0.5, "lr": 1e-3, "schedule": "step", "gamma": 0.2,
    "milestones": (35, 55, 75, 95), "topk": (1, 3, 5), "batch_size": 16, "max_epochs": 100, "train_sampling": EVENLY,
    "early_stopping": STOPS,
    "variants": {"categories": {"data.target": "verb_category"}, "verbs_nouns": {"data.target": "verb_noun"}},
}  # fmt: skip
TUTORIAL = {
    **SGD, **SPLIT_1, "pretrained": False, "dropout": 0.5, "lr": 1e-3, "weight_decay": 1e-4, "milestones": (40, 70, 90),
    "batch_size": 5, "max_epochs": 100, "limit_train_batches": 200,
}  # fmt: skip
I3D_TUTORIAL = {**TUTORIAL, "backbone": "resnet50", "num_frames": None, "time_stride": None}
FRAMES = {
    **ADAM, "freeze_backbone": True, "pretrained": True, "num_frames": 25, "head_width": 512, "dropout": 0.5,
    "lr": 1e-5, "schedule": "inverse_time", "gamma": 1e-6, "batch_size": 32, "split": 1, "val_fraction": 0.14,
    "train_sampling": EVENLY, "max_epochs": 500, "early_stopping": STOPS, "monitor": "val_loss",
}  # fmt: skip
RECURRENT = {**FRAMES, "reset": "before", "input_dropout": 0.5}
QUANTIZED, INCEPTION = {"backbone": "mobilenetv2_quant"}, {"backbone": "inception_v3.tf_in1k"}

SETTINGS = {
    "i3d_ucf101": {**I3D_UCF101, "modality": "rgb"},
    "i3d_flow_ucf101": {**I3D_UCF101, "modality": "flow"},
    "i3d_twostream_ucf101": {
        **TWO_STREAM, **ADAM, **SPLIT_1, "loss": "apart", "lr": 2e-3, "max_epochs": 50,
        "arguments": {"backbone": "inception_v1", "num_frames": 64, "value_range": (0.0, 1.0)},
    },
    "i3d_msr_daily": {
        **I3D, "modality": "rgb", "value_range": (-1.0, 1.0), "max_epochs": 30, "val_fraction": 0.1,
        "pretrained": "weights/kinetics-i3d/rgb_imagenet/model.ckpt.index",
    },
    "i3d_twostream_msr_daily": {
        **TWO_STREAM, "arguments": {"backbone": "inception_v1", "num_frames": 64}, "max_epochs": 0,
    },
    "tsn_bninception_ucf101": {**TSN, "backbone": "bn_inception"},
    "tsn_resnet_ucf101": {**TSN, "backbone": "resnet18"},
    "i3d_minikinetics": {**MINI_KINETICS, "backbone": "inception_v1"},
    "s3d_v1_minikinetics": {**MINI_KINETICS, "variant": "v1"},
    "s3d_v3_minikinetics": {**MINI_KINETICS, "variant": "v3"},
    "s3d_v3_topheavy_minikinetics": {**MINI_KINETICS, "variant": "v3_top_heavy"},
    "mobilenetv2_lstm_epic": {**EPIC, "temporal": "lstm", "hidden": 50},
    "mobilenetv2_convlstm_epic": {**EPIC, "temporal": "convlstm", "hidden": 8},
    "mobilenetv2_convnet1d_epic": {**EPIC, "temporal": "convnet1d", "hidden": 100},
    "tsn_vgg16_ucf101": {
        **TUTORIAL, "backbone": "vgg16", "num_segments": 3,
        "variants": {
            "iterations_200": {},
            "iterations_100": {"trainer.limit_train_batches": 100, "module.milestones": (50, 90)},
        },
    },
    "tsn_resnet50_hmdb51": {**TUTORIAL, "backbone": "resnet50", "num_segments": 3},
    "i3d_resnet50_ucf101": I3D_TUTORIAL,
    "i3d_resnet50_hmdb51": I3D_TUTORIAL,
    "mobilenetv2q_gru_ucf101": {**RECURRENT, **QUANTIZED, "temporal": "gru", "hidden": 1280},
    "mobilenetv2q_lstm_ucf101": {**RECURRENT, **QUANTIZED, "temporal": "lstm", "hidden": 1280},
    "mobilenetv2q_single_ucf101": {**FRAMES, **QUANTIZED, "temporal": "single"},
    "inceptionv3_gru_ucf101": {**RECURRENT, **INCEPTION, "temporal": "gru", "hidden": 2048},
    "inceptionv3_lstm_ucf101": {**RECURRENT, **INCEPTION, "temporal": "lstm", "hidden": 2048},
    "inceptionv3_single_ucf101": {**FRAMES, **INCEPTION, "temporal": "single"},
}  # fmt: skip

PER_CLASS = ("precision_macro", "recall_macro", "f1_macro")
FIGURES = {
    "i3d_ucf101": {"top1": [0.7821]},
    "i3d_flow_ucf101": {},
    "i3d_twostream_ucf101": {"top1": [0.8376]},
    "i3d_msr_daily": {"top1": [0.56]},
    "i3d_twostream_msr_daily": {"top1": [0.5776]},
    "tsn_bninception_ucf101": {"top1": [0.8448, 0.8454]},
    "tsn_resnet_ucf101": {"top1": [0.8028, 0.8177]},
    "i3d_minikinetics": {"top1": [0.64]},
    "s3d_v1_minikinetics": {"top1": [0.68]},
    "s3d_v3_minikinetics": {"top1": [0.58, 0.63]},  # 5 to 10 points under S3D-v1
    "s3d_v3_topheavy_minikinetics": {"top1": [0.68]},
    "mobilenetv2_lstm_epic": {
        "categories/top1": [0.0711], "categories/top3": [0.2126], "categories/top5": [0.3158],
        "categories/trainable_parameters": [266_963],
    },
    "mobilenetv2_convlstm_epic": {
        "categories/top1": [0.12], "categories/top3": [0.3595], "categories/top5": [0.583],
        "categories/trainable_parameters": [446_909],
    },
    "mobilenetv2_convnet1d_epic": {
        "categories/top1": [0.1817], "categories/top3": [0.5056], "categories/top5": [0.7369],
        "verbs_nouns/trainable_parameters": [85_137],
        "verbs_nouns/verb_top1": [0.188], "verbs_nouns/verb_top3": [0.4349], "verbs_nouns/verb_top5": [0.5547],
        "verbs_nouns/noun_top1": [0.0382], "verbs_nouns/noun_top3": [0.1108], "verbs_nouns/noun_top5": [0.1776],
        "verbs_nouns/action_top1": [0.0501], "verbs_nouns/action_top3": [0.0818], "verbs_nouns/action_top5": [0.1042],
    },
    "tsn_vgg16_ucf101": {"iterations_200/train_top1": [0.80], "iterations_100/train_top1": [0.70]},
    "tsn_resnet50_hmdb51": {},
    "i3d_resnet50_ucf101": {},
    "i3d_resnet50_hmdb51": {},
    "mobilenetv2q_gru_ucf101": {
        "top1": [0.731, 0.7594], "top5": [0.9297], **dict(zip(PER_CLASS, ([0.74], [0.73], [0.72]), strict=True)),
    },
    "mobilenetv2q_lstm_ucf101": {"top1": [0.743], "top5": [0.9117]},
    "mobilenetv2q_single_ucf101": {
        "top1": [0.6425], "top5": [0.8473], **dict(zip(PER_CLASS, ([0.62], [0.61], [0.61]), strict=True)),
    },
    "inceptionv3_gru_ucf101": {
        "top1": [0.770, 0.7961], "top5": [0.9469], **dict(zip(PER_CLASS, ([0.77], [0.77], [0.76]), strict=True)),
    },
    "inceptionv3_lstm_ucf101": {"top1": [0.7875], "top5": [0.9422]},
    "inceptionv3_single_ucf101": {
        "top1": [0.6969], "top5": [0.8812], **dict(zip(PER_CLASS, ([0.67], [0.67], [0.66]), strict=True)),
    },
}  # fmt: skip


def defaults(cls):
    """Of a constructor's parameters, its bases' included."""
    found = {}
    for base in reversed(cls.__mro__):
        code = getattr(vars(base).get("__init__"), "__code__", None)
        if code is not None:
            names = code.co_varnames[: code.co_argcount]
            given = base.__init__.__defaults__ or ()
            found |= dict(zip(names[len(names) - len(given) :], given, strict=True))
            found |= base.__init__.__kwdefaults__ or {}
    return found


@pytest.fixture
def settings(monkeypatch):
    """What a recipe calls ``run`` with, defaults of its classes included, by the recipe's name."""

    def read(name):
        calls = []
        with monkeypatch.context() as patch:
            patch.setattr(importlib.import_module("lightning_har.run"), "run", lambda **given: calls.append(given))
            runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
        (call,) = calls
        (module, of_module), (data, of_data) = (split_partial(call[what], what) for what in ("module", "data"))
        found = DEFAULTS | defaults(data) | defaults(module) | of_data | of_module
        stops = [c for c in call["trainer"].get("callbacks", ()) if isinstance(c, EarlyStopping)]
        told = [{key: getattr(one, key) for key in STOPS} for one in stops]
        found |= call["trainer"] | {"early_stopping": told[0] if told else None}
        return found | {"variants": call.get("variants"), "monitor": call.get("monitor", "val_top1")}

    return read


@pytest.mark.parametrize("name", SETTINGS)
def test_a_recipe_has_the_settings_of_its_study(name, settings):
    wanted = {"early_stopping": None, "variants": None, "limit_train_batches": None, "monitor": "val_top1"}
    wanted |= SETTINGS[name]
    found = settings(name)
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize("name", FIGURES)
def test_a_recipe_reports_the_figures_of_its_study(name):
    reported = read_reported(RECIPES / f"{name}.py")
    assert reported["on"]
    assert {metric: sorted(where.values()) for metric, where in reported.items() if metric != "on"} == FIGURES[name]


def test_no_study_is_left_out():
    of_studies = {path.stem for path in RECIPES.glob("*.py") if read_reported(path)}
    assert of_studies == set(SETTINGS) == set(FIGURES)
