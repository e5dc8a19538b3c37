from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from whycam.cam.attention import attention_rollout, chefer, le_grad
from whycam.cam.registry import Pass
from whycam.errors import UserError

_ALL = [attention_rollout, le_grad, chefer]


def make_vit(seed: int = 0, **changes: object) -> VisionTransformer:
    torch.manual_seed(seed)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    vit = VisionTransformer(**(settings | changes)).double().eval()
    with torch.no_grad():
        for parameter in vit.parameters():  # as initialised, attention is nearly uniform
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return vit


def make_pass(module: nn.Module, images: Tensor, grid: tuple[int, ...] = (4, 4), **changes: object) -> Pass:
    target = torch.arange(len(images)) % 3
    fields = {
        "images": images,
        "features": torch.zeros(len(images), 2, *grid),
        "target": target,
        "score": lambda output, rows: output.gather(1, target[rows, None])[:, 0],
        "tail": None,
        "model": module,
        "module": module,
    }
    return Pass(**(fields | changes))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend(block: nn.Module, tokens: Tensor) -> Tensor:
    """The attention matrices (heads, T, T) of one image's tokens (T, D), from the block's weights."""
    heads, width = block.attn.num_heads, tokens.shape[1]
    size = width // heads
    projected = block.norm1(tokens) @ block.attn.qkv.weight.T + block.attn.qkv.bias
    query, key = projected[:, :width], projected[:, width : 2 * width]
    matrices = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        matrices.append((query[:, part] @ key[:, part].T / size**0.5).softmax(1))
    return torch.stack(matrices)


def apply_block(block: nn.Module, tokens: Tensor, matrices: Tensor) -> Tensor:
    heads, width = len(matrices), tokens.shape[1]
    value = (block.norm1(tokens) @ block.attn.qkv.weight.T + block.attn.qkv.bias)[:, 2 * width :]
    mixed = torch.cat([m @ v for m, v in zip(matrices, value.chunk(heads, 1), strict=True)], 1)
    tokens = tokens + block.attn.proj(mixed)
    return tokens + block.mlp(block.norm2(tokens))


def embed(vit: VisionTransformer, image: Tensor) -> Tensor:
    patches = vit.patch_embed(image[None])[0]
    return torch.cat([vit.cls_token[0], patches]) + vit.pos_embed[0]


def slow_rollout(vit: VisionTransformer, image: Tensor) -> Tensor:
    tokens, flow = embed(vit, image), torch.eye(17, dtype=torch.float64)
    for block in vit.blocks:
        matrices = attend(block, tokens)
        tokens = apply_block(block, tokens, matrices)
        kept = matrices.mean(0) + torch.eye(17)
        flow = torch.stack([row / row.sum() for row in kept]) @ flow
    return flow[0, 1:].reshape(4, 4)


def slow_chefer(vit: VisionTransformer, image: Tensor, target: int) -> Tensor:
    tokens, kept = embed(vit, image), []
    for block in vit.blocks:
        kept.append(attend(block, tokens))
        tokens = apply_block(block, tokens, kept[-1])
    score = vit.head(vit.norm(tokens)[0])[target]
    relevance = torch.eye(17, dtype=torch.float64)
    for matrices in kept:
        gradient = torch.autograd.grad(score, matrices, retain_graph=True)[0]
        relevance = relevance + (gradient * matrices).clamp(min=0).mean(0) @ relevance
    return relevance[0, 1:].reshape(4, 4)


def slow_le_grad(vit: VisionTransformer, image: Tensor, target: int) -> Tensor:
    tokens, layers = embed(vit, image), []
    for block in vit.blocks:
        matrices = attend(block, tokens)
        tokens = apply_block(block, tokens, matrices)
        score = vit.head(vit.norm(tokens.mean(0)))[target]
        gradient = torch.autograd.grad(score, matrices, retain_graph=True)[0]
        layers.append(gradient.clamp(min=0).mean((0, 1))[1:])
    return torch.stack(layers).mean(0).reshape(4, 4)


@pytest.mark.parametrize("is_fused", [True, False])
def test_methods_equal_the_papers_loops_on_a_vision_transformer(is_fused: bool) -> None:
    vit, images = make_vit(), draw(3, 3, 32, 32)
    for block in vit.blocks:
        block.attn.fused_attn = is_fused
    p = make_pass(vit, images)
    for i, image in enumerate(images):
        for found, expected in (
            (attention_rollout(p), slow_rollout(vit, image)),
            (chefer(p), slow_chefer(vit, image, i % 3)),
            (le_grad(p), slow_le_grad(vit, image, i % 3)),
        ):
            assert expected.std() > 1e-3 * expected.mean() > 0
            torch.testing.assert_close(found[i].double(), expected.detach(), atol=1e-6, rtol=1e-5)


def copy_into_torchvision(vit: VisionTransformer) -> torchvision.models.VisionTransformer:
    """torchvision's transformer with timm's weights."""
    twin = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 128, num_classes=5).double().eval()
    renamed = {"class_token": vit.cls_token, "encoder.pos_embedding": vit.pos_embed}
    pairs = {
        "patch_embed.proj": "conv_proj",
        "norm": "encoder.ln",
        "head": "heads.head",
    }
    for i in range(2):
        block = f"encoder.layers.encoder_layer_{i}"
        pairs |= {
            f"blocks.{i}.norm1": f"{block}.ln_1",
            f"blocks.{i}.norm2": f"{block}.ln_2",
            f"blocks.{i}.attn.proj": f"{block}.self_attention.out_proj",
            f"blocks.{i}.mlp.fc1": f"{block}.mlp.0",
            f"blocks.{i}.mlp.fc2": f"{block}.mlp.3",
        }
        attention = vit.blocks[i].attn
        renamed[f"{block}.self_attention.in_proj_weight"] = attention.qkv.weight
        renamed[f"{block}.self_attention.in_proj_bias"] = attention.qkv.bias
    for ours, theirs in pairs.items():
        renamed |= {f"{theirs}.{name}": value for name, value in vit.get_submodule(ours).named_parameters()}
    twin.load_state_dict(renamed)
    return twin


@pytest.mark.parametrize("run", _ALL)
def test_torchvisions_transformer_gives_timms_map(run) -> None:
    vit, images = make_vit(), draw(2, 3, 32, 32)
    twin = copy_into_torchvision(vit)
    for module in (vit, twin):  # torchvision's epsilon is 1e-6, and torch's encoder has 1e-5
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = 1e-6
    torch.testing.assert_close(twin(images), vit(images))
    torch.testing.assert_close(run(make_pass(twin, images)), run(make_pass(vit, images)), atol=1e-6, rtol=1e-5)


class EncoderClassifier(nn.Module):
    """torch's own encoder on patches, with the mean of the patches read."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(images).flatten(2).mT).mean(1))


@pytest.mark.parametrize("run", _ALL)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_torchs_own_encoder_is_watched_though_it_has_a_fast_path(run) -> None:
    torch.manual_seed(0)
    module = EncoderClassifier().double().eval().requires_grad_(False)
    with torch.no_grad():
        found = run(make_pass(module, draw(2, 3, 32, 32)))
    assert found.shape == (2, 4, 4)
    assert found.std() > 0


def test_the_mean_of_the_patches_is_followed_where_the_model_averages_them() -> None:
    images = draw(1, 3, 32, 32)
    averaging = make_vit(global_pool="avg", class_token=False, fc_norm=False)
    p = make_pass(averaging, images)
    torch.testing.assert_close(attention_rollout(p).sum(), torch.tensor(1.0))
    classed = make_pass(make_vit(), images)
    by_mean = attention_rollout(replace(classed, options={"read": "mean"}))
    assert (by_mean - attention_rollout(classed)).abs().max() > 1e-4
    # timm averages the patches here although there is a class token.
    pooled = make_pass(make_vit(global_pool="avg", fc_norm=False), images)
    torch.testing.assert_close(attention_rollout(pooled), by_mean)
    with pytest.raises(UserError, match="'read' is 'all'; expected 'class' or 'mean'"):
        attention_rollout(replace(classed, options={"read": "all"}))


class Averaging(nn.Module):
    """A class token that nobody reads, as in Hugging Face's BEiT: the patches are averaged, which no name tells."""

    def __init__(self, reads: str = "patches") -> None:
        super().__init__()
        self.vit, self.reads = make_vit(), reads
        self.vit.norm, self.pool = nn.Identity(), nn.LayerNorm(32)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(images)
        patches, first = tokens[:, 1:].mean(1), tokens[:, 0]
        return self.vit.head(self.pool({"patches": patches, "class": first, "both": first + 3 * patches}[self.reads]))


@pytest.mark.parametrize("run", [attention_rollout, chefer])
def test_what_the_head_reads_is_measured_whatever_the_model_is_called(run) -> None:
    images = draw(2, 3, 32, 32)
    for reads, option in (("patches", "mean"), ("class", "class")):
        p = make_pass(Averaging(reads).double().eval(), images)
        torch.testing.assert_close(run(p), run(replace(p, options={"read": option})))
    p = make_pass(Averaging("both").double().eval(), images)
    by_class, by_mean = (run(replace(p, options={"read": option})) for option in ("class", "mean"))
    weights = torch.tensor([1.0, *[3 / 16] * 16])
    share = weights[0] / weights.sum()
    torch.testing.assert_close(run(p), share * by_class + (1 - share) * by_mean)


def test_the_queries_of_a_pooling_head_weigh_the_patches() -> None:
    module = make_vit(global_pool="map", class_token=False)
    p = make_pass(module, draw(2, 3, 32, 32))
    found = attention_rollout(p)
    assert found.shape == (2, 4, 4)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))
    assert (found - attention_rollout(replace(p, options={"read": "mean"}))).abs().max() > 1e-3
    for run in (chefer, le_grad):
        assert run(p).std() > 0


def test_both_tokens_of_a_distilled_transformer_are_followed() -> None:
    torch.manual_seed(0)
    module = VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5
    ).double().eval()  # fmt: skip
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    p = make_pass(module, draw(2, 3, 32, 32))
    assert (attention_rollout(p) - attention_rollout(replace(p, options={"read": "class"}))).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_tokens_that_stand_before_the_batch_are_read() -> None:
    class TokensFirst(EncoderClassifier):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.encoder(self.patches(images).flatten(2).permute(2, 0, 1)).mean(0))

    torch.manual_seed(0)
    p = make_pass(TokensFirst().double().eval(), draw(2, 3, 32, 32))
    for run in (attention_rollout, chefer):
        torch.testing.assert_close(run(p), run(replace(p, options={"read": "mean"})))


def test_a_head_whose_tokens_no_layer_gives_is_asked_for() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(12, 12)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.body(nn.functional.unfold(images, 8, stride=8).mT.unflatten(2, (12, 16)).mean(3))[:, None]
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2))

    p = make_pass(Hidden().double().eval(), draw(2, 3, 32, 32))
    with pytest.raises(UserError, match=r"gives 16 tokens.*option read='class' or read='mean'"):
        attention_rollout(p)
    assert attention_rollout(replace(p, options={"read": "mean"})).std() > 0


def test_chefer_is_zero_where_no_attention_raises_the_score() -> None:
    for read in ("class", "mean"):
        p = make_pass(make_vit(), draw(1, 3, 32, 32), options={"read": read})
        assert chefer(p).max() > 0
        constant = replace(p, score=lambda output, rows: output[:, 0] * 0)
        assert chefer(constant).abs().max() < 1e-7


@pytest.mark.parametrize("run", _ALL)
def test_register_tokens_and_images_that_are_not_square(run) -> None:
    vit = make_vit(img_size=(32, 48), reg_tokens=3)
    found = run(make_pass(vit, draw(2, 3, 32, 48), grid=(4, 6)))
    assert found.shape == (2, 4, 6)
    assert found.std() > 0


@pytest.mark.parametrize("run", _ALL)
def test_batch_is_its_images_and_chunks_change_nothing(run) -> None:
    vit, images = make_vit(), draw(4, 3, 32, 32)
    whole = run(make_pass(vit, images))
    assert whole.dtype == torch.float32
    for chunk in (3, 64):
        torch.testing.assert_close(run(make_pass(vit, images, chunk=chunk)), whole, atol=1e-6, rtol=1e-5)
    for i in range(4):
        p = make_pass(vit, images[i : i + 1], score=lambda output, rows, i=i: output[:, i % 3])
        torch.testing.assert_close(run(p), whole[i : i + 1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("run", _ALL)
def test_frozen_model_without_gradients_gives_the_same_map(run) -> None:
    vit, images = make_vit(), draw(2, 3, 32, 32)
    expected = run(make_pass(vit, images))
    vit.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(run(make_pass(vit, images)), expected)


def state_of(module: nn.Module) -> list[object]:
    parts = [
        (id(m), m.training, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()
    ]
    fused = [m.fused_attn for m in module.modules() if hasattr(m, "fused_attn")]
    return [*parts, fused, [(p.requires_grad, p.grad) for p in module.parameters()]]


@pytest.mark.parametrize("run", _ALL)
@pytest.mark.parametrize("is_broken", [False, True])
def test_nothing_is_left_behind(run, is_broken: bool) -> None:
    vit, images = make_vit(), draw(2, 3, 32, 32)
    twin, kept, before = copy.deepcopy(vit.state_dict()), images.clone(), state_of(vit)
    if is_broken:
        vit.norm.forward = lambda tokens: 1 / 0
        before = state_of(vit)
        with pytest.raises(ZeroDivisionError):
            run(make_pass(vit, images))
    else:
        run(make_pass(vit, images))
    assert state_of(vit) == before
    assert not images.requires_grad
    assert torch.equal(images, kept)
    assert all(torch.equal(value, twin[name]) for name, value in vit.state_dict().items())


@pytest.mark.parametrize("run", [attention_rollout, le_grad])
def test_direction_does_not_depend_on_the_scores_scale(run) -> None:
    p = make_pass(make_vit(), draw(2, 3, 32, 32))
    tiny = run(replace(p, score=lambda output, rows: p.score(output, rows) * 2.0**-20))
    whole = run(p)
    torch.testing.assert_close(tiny / tiny.max(), whole / whole.max())


class Reducing(nn.Module):
    """Attention to fewer keys than there are queries in the first blocks, as in PVT and Segformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(nn.Linear(16, 48) for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        for index, block in enumerate(self.blocks):
            query, key, value = block(tokens).unflatten(2, (2, -1)).transpose(1, 2).chunk(3, 3)
            if index < 2:
                key, value = key[:, :, ::4], value[:, :, ::4]
            matrix = (query @ key.mT).softmax(-1)
            tokens = tokens + (matrix @ value).transpose(1, 2).flatten(2)
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("run", _ALL)
def test_attention_to_fewer_keys_is_refused_though_some_layers_attend_to_all(run) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"Reducing attends within windows, at several.*1 of 16 queries and 4 keys"):
        run(make_pass(Reducing().double().eval(), draw(2, 3, 32, 32)))


@pytest.mark.parametrize("run", _ALL)
def test_pvt_is_refused(run) -> None:
    pvt = timm.create_model("pvt_v2_b0", pretrained=False, num_classes=5).double().eval()
    with pytest.raises(UserError, match=r"PyramidVisionTransformerV2 attends within windows, at several resolutions"):
        run(make_pass(pvt, draw(1, 3, 64, 64), grid=(2, 2)))


@pytest.mark.parametrize("run", _ALL)
def test_heads_that_are_part_of_the_batch_are_refused(run) -> None:
    class Merged(EncoderClassifier):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).mT
            for _ in range(2):
                tokens = tokens + (tokens @ tokens.mT).softmax(-1) @ tokens
            return self.head(tokens.mean(1))

    torch.manual_seed(0)
    with pytest.raises(UserError, match="Use 'grad-cam'"):
        run(make_pass(Merged().double().eval(), draw(1, 3, 32, 32)))


@pytest.mark.parametrize("run", _ALL)
def test_models_that_do_not_attend_everywhere_are_refused_with_what_works(run) -> None:
    convolution = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, 5)).double().eval()
    swin = SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=5
    )
    images = draw(2, 3, 32, 32)
    with pytest.raises(UserError, match=r"No attention matrix was made in Sequential; expected a vision.*'grad-cam'"):
        run(make_pass(convolution, images))
    with pytest.raises(UserError, match=r"SwinTransformer attends within windows.*of 16 tokens.*'grad-cam'"):
        run(make_pass(swin.double().eval(), images, grid=(8, 8)))
    with pytest.raises(UserError, match="There is no PyTorch module behind this model"):
        run(replace(make_pass(convolution, images), module=None))
    with pytest.raises(UserError, match=r"not between the layer's positions.*of 17 tokens.*of 64 patches"):
        run(make_pass(make_vit(), images, grid=(8, 8)))


def test_le_grad_refuses_a_single_block() -> None:
    with pytest.raises(UserError, match="two or more blocks"):
        le_grad(make_pass(make_vit(depth=1), draw(1, 3, 32, 32)))


@pytest.mark.oracle
@pytest.mark.parametrize("run", _ALL)
def test_hugging_faces_transformer_fused_or_not(run) -> None:
    peers = pytest.importorskip("transformers", reason="Hugging Face models are optional")
    images = draw(2, 3, 32, 32)
    settings = peers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, num_labels=5, layer_norm_eps=1e-6,
    )  # fmt: skip
    for attention in ("sdpa", "eager"):
        settings._attn_implementation = attention
        torch.manual_seed(0)
        twin = peers.ViTForImageClassification(settings).double().eval()
        p = make_pass(twin, images, score=lambda output, rows: output.logits[:, 0])
        output = twin(images, output_attentions=True) if attention == "eager" else None
        found = run(p)
        assert found.shape == (2, 4, 4)
        assert found.std() > 0
        if output is not None and run is attention_rollout:
            flow = torch.eye(17, dtype=torch.float64)
            for layer in output.attentions:
                flow = (layer[0].mean(0) + torch.eye(17)) / 2 @ flow
            torch.testing.assert_close(found[0].double(), flow[0, 1:].reshape(4, 4), atol=1e-6, rtol=0)


@pytest.mark.oracle
@pytest.mark.parametrize("averages", [True, False])
def test_hugging_faces_beit_with_and_without_a_class_token_that_is_read(averages: bool) -> None:
    peers = pytest.importorskip("transformers", reason="Hugging Face models are optional")
    settings = peers.BeitConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, num_labels=5, use_mean_pooling=averages,
    )  # fmt: skip
    torch.manual_seed(0)
    twin = peers.BeitForImageClassification(settings).double().eval()
    p = make_pass(twin, draw(2, 3, 32, 32), score=lambda output, rows: output.logits[:, 0])
    for run in (attention_rollout, chefer):
        torch.testing.assert_close(run(p), run(replace(p, options={"read": "mean" if averages else "class"})))


@pytest.mark.oracle
@pytest.mark.parametrize("run", _ALL)
def test_hugging_faces_segformer_is_refused(run) -> None:
    peers = pytest.importorskip("transformers", reason="Hugging Face models are optional")
    settings = peers.SegformerConfig(hidden_sizes=[16, 16, 32, 32], decoder_hidden_size=16, num_labels=5)
    torch.manual_seed(0)
    twin = peers.SegformerForImageClassification(settings).double().eval()
    with pytest.raises(UserError, match="attends within windows, at several resolutions"):
        run(make_pass(twin, draw(1, 3, 64, 64), grid=(2, 2)))


@pytest.mark.oracle
def test_le_grad_equals_torchcams_on_torchvisions_transformer() -> None:
    peers = pytest.importorskip("torchcam.methods", reason="the peer to compare with")
    twin = copy_into_torchvision(make_vit()).float()
    images = draw(1, 3, 32, 32).float()
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(2)]
    with peers.LeGrad(twin, blocks) as peer:
        theirs = peer(0, twin(images), normalized=False)[0]
    torch.testing.assert_close(le_grad(make_pass(twin, images)), theirs, atol=1e-6, rtol=1e-4)
