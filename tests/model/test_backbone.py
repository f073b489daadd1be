"""The trunk: only agreed weights, only architectures that can be computed faithfully, and frozen for good."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from pfedbayespt.model.backbone import (
    Backbone,
    BackboneDigestError,
    BackboneError,
    load_backbone,
    random_backbone,
    weights_digest,
)


def test_weights_with_another_digest_are_refused(backbone_config, weights_file, tmp_path):
    tampered = tmp_path / "tampered.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    tampered.write_bytes(content)
    with pytest.raises(BackboneDigestError, match="was agreed on") as caught:
        load_backbone(backbone_config, tampered)
    assert caught.value.expected == backbone_config.weights_digest
    assert caught.value.actual == weights_digest(bytes(content))


def test_the_digest_is_checked_before_anything_is_read(backbone_config, tmp_path):
    nonsense = tmp_path / "nonsense.safetensors"
    nonsense.write_bytes(b"reading this as safetensors would fail")
    with pytest.raises(BackboneDigestError):
        load_backbone(backbone_config, nonsense)


def test_an_agreed_file_that_holds_no_tensors_is_refused(backbone_config, tmp_path):
    nonsense = tmp_path / "nonsense.safetensors"
    nonsense.write_bytes(b"not safetensors")
    config = replace(backbone_config, weights_digest=weights_digest(b"not safetensors"))
    with pytest.raises(BackboneError, match="not a safetensors file"):
        load_backbone(config, nonsense)


def test_weights_of_another_architecture_are_refused(backbone_config, weights_file):
    config = replace(backbone_config, architecture="vit_tiny_patch16_224")
    with pytest.raises(BackboneError, match="do not fit vit_tiny_patch16_224"):
        load_backbone(config, weights_file)


def test_a_missing_tensor_is_refused(backbone_config, weights_file, tmp_path):
    state = safetensors.torch.load_file(weights_file)
    del state["cls_token"]
    content = safetensors.torch.save(state)
    (tmp_path / "short.safetensors").write_bytes(content)
    with pytest.raises(BackboneError, match="cls_token"):
        load_backbone(
            replace(backbone_config, weights_digest=weights_digest(content)), tmp_path / "short.safetensors"
        )


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("no_such_model", "timm knows no architecture 'no_such_model'"),
        ("resnet18", "not a plain vision transformer"),
        ("swin_tiny_patch4_window7_224", "SwinTransformer is not a timm VisionTransformer"),
        ("eva02_tiny_patch14_224", "Eva is not a timm VisionTransformer"),
        ("test_vit2", "no class token"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed is unsupported"),
    ],
)
def test_an_architecture_that_cannot_be_computed_is_refused_with_the_reason(tmp_path, architecture, reason):
    with pytest.raises(BackboneError, match=reason):
        random_backbone(tmp_path / "weights.safetensors", architecture=architecture, image_size_pixels=224)


def test_blocks_that_are_not_plain_are_refused():
    vit = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, block_fn=ParallelScalingBlock
    )
    with pytest.raises(BackboneError, match="ParallelScalingBlock"):
        Backbone(vit)


def test_attention_that_is_not_plain_is_refused():
    vit = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, attn_layer="diff", qkv_bias=False
    )
    with pytest.raises(BackboneError, match="DiffAttention"):
        Backbone(vit)


def test_an_image_size_that_patches_do_not_tile_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="50; test_vit takes multiples of 16"):
        random_backbone(tmp_path / "weights.safetensors", image_size_pixels=50)


@pytest.mark.parametrize(
    "architecture",
    ["test_vit", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"],
)
def test_the_trunk_computes_what_timm_computes(architecture, tmp_path):
    config = random_backbone(tmp_path / "weights.safetensors", architecture=architecture)
    backbone = load_backbone(config, tmp_path / "weights.safetensors")
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone(images), backbone.vit.forward_features(images), rtol=0, atol=0)
    assert backbone(images).shape == (2, backbone.num_prefix_tokens + 9, backbone.embed_dim)


def test_a_norm_that_timm_applies_after_pooling_still_is_the_final_norm():
    vit = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, global_pool="avg", num_classes=0
    )
    backbone = Backbone(vit)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(backbone(images), vit.fc_norm(vit.forward_features(images)))
    assert backbone(images).std() > 0.5  # a norm was applied: the untrained states are far smaller


def test_the_trunk_stays_frozen_whatever_surrounds_it(backbone, images):
    model = torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(images.requires_grad_()).requires_grad


def test_a_position_grid_of_the_same_size_is_left_alone(backbone, weights_file):
    stored = safetensors.torch.load_file(weights_file)["pos_embed"]
    assert torch.equal(backbone.vit.pos_embed, stored)


@pytest.mark.parametrize("architecture", ["test_vit", "deit3_small_patch16_224"])
def test_a_position_grid_of_another_size_is_resampled_and_the_rest_is_kept(architecture, tmp_path):
    file = tmp_path / "weights.safetensors"
    config = random_backbone(file, architecture=architecture, image_size_pixels=64)
    state = safetensors.torch.load_file(file)
    num_fixed = state["pos_embed"].shape[1] - 16  # the class token has no position in deit3
    state["pos_embed"][:, num_fixed:] = torch.arange(4.0).repeat(4)[None, :, None]  # rises from left to right
    content = safetensors.torch.save(state)
    file.write_bytes(content)
    config = replace(config, weights_digest=weights_digest(content), image_size_pixels=128)
    positions = load_backbone(config, file).vit.pos_embed
    grid = positions[0, num_fixed:, 0].view(8, 8)
    assert torch.equal(positions[:, :num_fixed], state["pos_embed"][:, :num_fixed])
    torch.testing.assert_close(grid, grid[:1].expand(8, 8))  # every row alike
    # Cubic weights with a = -3/4 a quarter between columns 1 and 2; antialiasing would use a = -1/2: 1.25, 1.75.
    torch.testing.assert_close(grid[0, 3:5], torch.tensor([1.296875, 1.703125]))


def test_loading_leaves_the_global_generator_alone(backbone_config, weights_file):
    before = torch.random.get_rng_state()
    load_backbone(backbone_config, weights_file)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_weights_are_a_function_of_the_seed(tmp_path):
    digests = [random_backbone(tmp_path / "weights", seed=seed).weights_digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_half_precision_weights_are_read_as_float32(backbone_config, weights_file, tmp_path):
    half = {name: tensor.half() for name, tensor in safetensors.torch.load_file(weights_file).items()}
    content = safetensors.torch.save(half)
    (tmp_path / "half.safetensors").write_bytes(content)
    config = replace(backbone_config, weights_digest=weights_digest(content))
    backbone = load_backbone(config, tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_trunk_goes_to_the_device_it_is_sent_to(backbone_config, weights_file, images):
    device = torch.device("cuda")
    backbone = load_backbone(backbone_config, weights_file, device)
    assert backbone(images.to(device)).device.type == "cuda"
