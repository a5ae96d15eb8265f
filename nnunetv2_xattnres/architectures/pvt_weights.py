"""Pretrained weights for EMCAD's encoder: timm's hub, a timm file, or a file of the original PVT release."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nnunetv2_xattnres.architectures.emcad import EMCADNet
from nnunetv2_xattnres.errors import InputError


def load_encoder_weights(network: EMCADNet) -> None:
    """Load what ``network.encoder_weights`` asks for into every parameter of the encoder; nothing where it is ``None``.

    Raises:
        InputError: the weights are missing, unreadable or of another network; the network is then unchanged.
    """
    source, name = network.encoder_weights, network.encoder_name
    if source is None:
        return
    state = _from_hub(name) if source == "imagenet" else _from_file(Path(source), name)
    expected = network.encoder.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems += [f"{key} is not part of {name}" for key in state if key not in expected]
    if problems:
        more = [f"and {len(problems) - 8} more"] if len(problems) > 8 else []
        raise InputError(f"{source} does not hold the weights of {name}. {_advice(name)}", problems[:8] + more)
    network.encoder.load_state_dict(state)


def _from_hub(name: str) -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(name, pretrained=True, features_only=True).state_dict()
    except Exception as error:  # the hub's client raises what its transport raises
        raise InputError(
            f"timm cannot fetch the ImageNet weights of {name} ({type(error).__name__}: {error}). {_advice(name)}"
        ) from error


def _from_file(path: Path, name: str) -> dict[str, Tensor]:
    """The encoder's part of a file, in the names of timm's ``features_only`` network."""
    from timm.models import load_state_dict
    from timm.models.pvt_v2 import checkpoint_filter_fn

    if not path.is_file():
        raise InputError(f"{path}, which encoder_weights in the plans names, is not there. {_advice(name)}")
    try:
        state = load_state_dict(str(path), use_ema=False, weights_only=True)
        # timm's own map from the release's names (block1.0, patch_embed2) to its own (stages.0.blocks.0)
        state = checkpoint_filter_fn(state, None)
    except Exception as error:  # a damaged file fails in torch, in pickle, in zipfile or in safetensors
        raise InputError(
            f"{path} cannot be read as weights of {name}: it is damaged or no file of weights "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}). {_advice(name)}"
        ) from error
    return {key.replace("stages.", "stages_", 1): value for key, value in state.items() if not key.startswith("head.")}


def _advice(name: str) -> str:
    return (
        f"Put the file of timm/{name}.in1k (model.safetensors or pytorch_model.bin) or of the PVT release ({name}.pth) "
        "on this machine and name it as encoder_weights (`nnunetv2_xattnres plan --encoder-weights FILE`), or write "
        "null there to train from random weights"
    )
