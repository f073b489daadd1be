"""Contexts can be cut, joined and kept small, and decode as if nothing had happened."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import build_insertion, concatenate


@pytest.fixture(params=["twoway", "prefix", "hybrid", "midway", "none"])
def insertion(request, backbone):
    return build_insertion(InsertionConfig(request.param, 3, 2), backbone)


@pytest.fixture
def context(insertion, images):
    return insertion.encode(images)


@pytest.fixture
def prompts(insertion, images):
    shape = (len(images), 2, insertion.num_tokens * insertion.token_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_selecting_images_is_decoding_those_images(insertion, context, prompts):
    indices = torch.tensor([2, 0])
    assert len(context.select(indices)) == 2
    expected = insertion.decode(context, prompts, prompts[:, 0])[indices]
    chosen = prompts[indices]
    torch.testing.assert_close(insertion.decode(context.select(indices), chosen, chosen[:, 0]), expected)


def test_what_was_cut_apart_can_be_joined(context):
    parts = [context.select(torch.tensor([0, 1])), context.select(torch.tensor([2]))]
    joined = concatenate(parts)
    assert len(joined) == 3
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(joined.tensors(), context.tensors(), strict=True)
    )


def test_batches_encoded_apart_join_to_the_batch_encoded_together(insertion, context, images):
    joined = concatenate([insertion.encode(images[:1]), insertion.encode(images[1:])])
    for mine, theirs in zip(joined.tensors(), context.tensors(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_nothing_larger_is_kept_alive(insertion, images):
    for batch in (images, images[:1]):  # a slice of a batch of one can look contiguous
        context = insertion.encode(batch)
        assert all(tensor.is_contiguous() for tensor in context.tensors())
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in context.tensors()
        }
        assert context.num_bytes == sum(storage.nbytes() for storage in storages.values())


def test_a_context_costs_what_is_documented(backbone, images):
    d, patches, mid = 64, 9, (1 + 9) * 64
    boundary = build_insertion(InsertionConfig("hybrid", 3, 2), backbone).encode(images)
    assert boundary.num_bytes == 3 * 4 * (2 * d + (1 + patches) * d + mid)
    prefix = build_insertion(InsertionConfig("prefix", 3, 2), backbone).encode(images)
    assert prefix.num_bytes == 3 * 4 * (2 * d + 3 * d + 2 * 2 * patches * d + d + mid)
    midway = build_insertion(InsertionConfig("midway", 3, 2), backbone).encode(images)
    assert midway.num_bytes == 3 * 4 * (2 * d + (1 + patches) * d + 2 * d)


def test_a_16_bit_cache_takes_half_the_memory_and_decodes_nearly_the_same(insertion, context, prompts):
    small = context.to(dtype=torch.float16)
    assert small.num_bytes * 2 == context.num_bytes
    expected = insertion.decode(context, prompts, prompts[:, 0])
    readout = insertion.decode(small, prompts, prompts[:, 0])
    assert readout.dtype == torch.float32
    assert (readout - expected).norm() / expected.norm() < 5e-3  # float16 rounds to 5e-4


def test_contexts_of_different_insertions_do_not_join(backbone, images):
    contexts = [
        build_insertion(InsertionConfig(kind, 3, 2), backbone).encode(images) for kind in ("twoway", "prefix")
    ]
    with pytest.raises(ValueError, match="all made by the same insertion"):
        concatenate(contexts)


def test_no_contexts_do_not_join():
    with pytest.raises(ValueError, match="one or more"):
        concatenate([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_context_decodes_on_the_device_it_is_sent_to(insertion, context, prompts):
    expected = insertion.decode(context, prompts, prompts[:, 0])
    device = torch.device("cuda")
    try:
        readout = insertion.to(device).decode(
            context.to(device), prompts.to(device), prompts[:, 0].to(device)
        )
    finally:
        insertion.to("cpu")  # the trunk is shared by all tests
    assert readout.device.type == "cuda"
    torch.testing.assert_close(readout.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_a_context_survives_a_file_of_named_tensors(insertion, images):
    context = insertion.encode(images)
    again = insertion.context_type.from_named_tensors(context.named_tensors())
    assert type(again) is type(context)
    assert again.named_tensors().keys() == context.named_tensors().keys()
    assert all(torch.equal(one, other) for one, other in zip(again.tensors(), context.tensors(), strict=True))


def test_a_file_without_one_of_its_tensors_is_no_context(insertion, images):
    named = insertion.encode(images).named_tensors()
    named.pop("features")
    with pytest.raises(ValueError, match="'features', which is missing"):
        insertion.context_type.from_named_tensors(named)
