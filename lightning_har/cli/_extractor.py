"""What stands after ``extract --model`` to a module whose frames' features are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from lightning_har.modules.cnn_rnn import CNNRNNModule


def load_extractor(
    model: str, weights: str | None = None, *, frames: int | None = None, size: int | None = None
) -> CNNRNNModule:
    """A module in eval mode whose frames' features are wanted.

    Args:
        model: A backbone's name; or a run's folder, a checkpoint or a name in the zoo, which says its own of the rest.
        weights: A file; None takes the published ones, "none" random ones.
        frames: Of a clip; None takes 25.
        size: Side of a frame; None takes the backbone's own.

    Raises:
        ConfigError: It has no features of single frames.
        WeightsError: Its weights cannot be had.
    """
    from lightning_har.modules.cnn_rnn import CNNRNNModule
    from lightning_har.modules.pretrained import load_model

    if is_trained(model):
        module = load_model(model)
        if not isinstance(module, CNNRNNModule) or module.net.backbone is None:
            raise ConfigError(
                f"{model} is a {type(module).__name__}; only a CNNRNNModule with a backbone has features of frames"
            )
    else:
        pretrained: bool | str = True if weights is None else False if weights == "none" else weights
        module = CNNRNNModule(0, model, "avg", pretrained=pretrained, num_frames=frames or 25, input_size=size)
    module.eval()
    return module


def is_trained(text: str) -> bool:
    """Whether it names a checkpoint, and not a backbone."""
    from lightning_har.weights.hub import find_card, find_zoo

    if Path(text).exists() or "/" in text or text.endswith(".ckpt"):
        return True
    zoo = find_zoo()
    return find_card(text) is not None if zoo.folder is None else (zoo.folder / text).is_dir()


def weights_digest(model: str, weights: str | None) -> str | None:
    """SHA-256 of the file that the weights come from; None for published ones, and for random ones.

    Raises:
        WeightsError: It cannot be read.
    """
    from lightning_har.modules.pretrained import weights_of
    from lightning_har.weights.fetch import digests

    file = weights_of(model) if is_trained(model) else Path(weights) if weights not in (None, "none") else None
    return None if file is None else digests(file).sha256
