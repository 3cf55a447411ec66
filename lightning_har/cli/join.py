"""``lightning-har join``: what was trained on stored features, with the network that computed them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lightning_har.cli._extractor import is_trained, load_extractor, weights_digest
from lightning_har.errors import ConfigError, DataError

EPILOG = """\
writes DIR with model.safetensors, config.json and README.md, a model of clips for every command.

examples:
  lightning-har extract --model mobilenetv2_quant --data clips/ --out features/
  lightning-har run recipes/folder.py --on features:features --out runs/head
  lightning-har join --model runs/head --features features/ --out joined
  lightning-har bundle --model joined --int8 --calibration clips/ --out bundle
"""


def add_parser(subparsers: Any) -> None:
    """Add ``join`` to the commands."""
    parser = subparsers.add_parser(
        "join",
        help="put a model of stored features behind the network that computed them",
        description="Put a model that was trained on stored features behind the network that computed them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="trained on features: a run's folder, a checkpoint, a zoo name")
    parser.add_argument("--features", required=True, metavar="DIR", help="where `extract` wrote them")
    parser.add_argument(
        "--weights", metavar="FILE", help="the backbone's, or its run, where they lie elsewhere than for `extract`"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the model goes")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Join and save."""
    from lightning_har.modules.cnn_rnn import CNNRNNModule
    from lightning_har.modules.pretrained import load_model, save

    settings = _settings(Path(args.features))
    head = load_model(args.model)
    if not isinstance(head, CNNRNNModule):
        raise ConfigError(f"{args.model} is a {type(head).__name__}; only a CNNRNNModule is trained on stored features")
    model, weights, spec = settings["model"], settings["weights"], settings["spec"]
    if weights == "none":
        raise ConfigError(f"the features in {args.features} are of random weights, which are gone; extract again")
    if args.weights and is_trained(model):
        model = args.weights
    elif args.weights:
        weights = args.weights
    extractor = load_extractor(model, weights, frames=spec.num_frames, size=spec.size[0])
    if extractor.spec != spec or weights_digest(model, weights) != settings["weights_sha256"]:
        raise ConfigError(
            f"the features in {args.features} were not computed by what is now {weights or model}: give the weights of "
            "then by --weights, or extract again"
        )
    extractor.eval_sampling = settings["sampling"]
    folder = save(head.with_backbone_of(extractor), args.out)
    print(f"{folder}: a model of clips, for `lightning-har predict clip.mp4 --model {folder}` and every other command")
    return 0


def _settings(folder: Path) -> dict[str, Any]:
    """What ``extract`` noted of its network, the spec and the sampling as such."""
    from lightning_har.data.features import read_settings
    from lightning_har.spec import InputSpec, Sampling

    settings = read_settings(folder)
    wanted = {"model", "weights", "weights_sha256", "spec", "sampling"}
    if not wanted <= set(settings) or not isinstance(settings["model"], str):
        raise ConfigError(
            f"{folder} does not say which network computed the features; extract again, or join them in Python: "
            "CNNRNNModule.with_backbone_of"
        )
    try:
        spec, sampling = InputSpec.from_dict(settings["spec"]), Sampling.from_dict(settings["sampling"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # a ConfigError is a ValueError
        raise DataError(f"what {folder} says of its extraction is damaged: {error}; extract again") from error
    return {**settings, "spec": spec, "sampling": sampling}
