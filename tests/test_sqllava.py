"""The prototype extractor against the published formula, written out product by product."""

import pytest
import torch
import torch.nn.functional as F
import toy
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig

from stllava.policy.policy import Policy
from stllava.policy.sqllava import (
    PrototypeProjector,
    SqlLavaConfig,
    SqlLavaForConditionalGeneration,
)

TEXT_WIDTH = 24
SIZES = [(576, 64, 256), (48, 32, 16)]  # patches L, width D, centres N
UNUSED = {"ln_1.weight", "ln_1.bias"}
PUBLISHED = {"sim_alpha", "sim_beta", *UNUSED} | {
    f"{layer}.{part}"
    for layer in ("c", "v", "f", "mlp.0", "mlp.2")
    for part in ("weight", "bias")
}  # fmt: skip


def projector(width, centers, seed=0):
    """A projector in fp64 whose every tensor, sim_alpha and sim_beta included, is off its start."""
    torch.manual_seed(seed)
    config = SqlLavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=width, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=TEXT_WIDTH, num_attention_heads=2),
        num_centers=centers,
    )
    made = PrototypeProjector(config).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def published(p, x_BLD, centers, num_iterations=2):
    """Sun et al. 2024, with the [B, N, L, D] product in memory and every quirk in place."""

    def pool(y_BLD):
        return F.adaptive_avg_pool1d(y_BLD.transpose(1, 2), centers).transpose(1, 2)

    def unit(y, dim):
        return y / y.norm(dim=dim, keepdim=True)

    value_BLD = unit(p.v(x_BLD), 1)  # quirk: along the tokens, not the features
    feature_BLD = p.f(x_BLD)
    centers_BND = pool(x_BLD)
    for _ in range(num_iterations):
        centers_BND = p.c(centers_BND)
        cosine_BNL = (unit(centers_BND, -1)[:, :, None] * value_BLD[:, None]).sum(-1)
        assign_BNL = cosine_BNL.exp() / cosine_BNL.exp().sum(-2, keepdim=True)  # over centres
        centers_BND = (assign_BNL[..., None] * feature_BLD[:, None]).sum(2)
    cosine_BNL = (unit(centers_BND, -1)[:, :, None] * unit(x_BLD, -1)[:, None]).sum(-1)
    similarity_BNL = 1 / (1 + torch.exp(-(p.sim_beta + p.sim_alpha * cosine_BNL)))
    nearest_BL = similarity_BNL.argmax(1)
    mask_BNL = F.one_hot(nearest_BL, centers).transpose(1, 2).to(x_BLD.dtype)
    weight_BNL1 = (similarity_BNL * mask_BNL)[..., None]
    total_BND = (weight_BNL1 * feature_BLD[:, None]).sum(2) + pool(feature_BLD)
    out_BND = total_BND / (mask_BNL.sum(-1, keepdim=True) + 1)
    hidden = p.mlp[0](x_BLD + (weight_BNL1 * out_BND[:, :, None]).sum(1))
    return p.mlp[2](hidden * torch.sigmoid(1.702 * hidden))


def gradients(output, x, module, direction):
    module.zero_grad()
    x.grad = None
    (output * direction).sum().backward()
    used = {n: p.grad.clone() for n, p in module.named_parameters() if n not in UNUSED}
    return {"input": x.grad.clone(), **used}


@pytest.mark.parametrize(("patches", "width", "centers"), SIZES)
def test_projector_and_its_gradients_equal_the_published_formula(patches, width, centers):
    module = projector(width, centers)
    x = torch.randn(1, patches, width, dtype=torch.float64, requires_grad=True)
    ours, written_out = module(x), published(module, x, centers)
    assert (ours - written_out).abs().max() <= 1e-12
    direction = torch.randn_like(ours)
    expected = gradients(written_out, x, module, direction)
    got = gradients(ours, x, module, direction)
    assert expected.keys() == {"input"} | (PUBLISHED - UNUSED)
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        assert (got[name] - gradient).abs().max() <= 1e-10 * scale, name


@pytest.mark.parametrize("quirk", ["value over tokens", "c in each iteration", "own count"])
def test_the_comparison_notices_a_formula_without_one_quirk(quirk, monkeypatch):
    module = projector(32, 16)
    x = torch.randn(2, 48, 32, dtype=torch.float64)
    right = module(x)
    if quirk == "own count":
        wrong = published(module, x, 15)
    elif quirk == "c in each iteration":
        wrong = published(module, x, 16, num_iterations=1)
    else:
        normalize = F.normalize
        monkeypatch.setattr(F, "normalize", lambda y, dim: normalize(y, dim=1 if y.shape[-1] == 48
                                                                     else dim))  # fmt: skip
        wrong = module(x)
    assert (right - wrong).abs().max() > 1e-6


def test_parameter_names_are_the_published_ones():
    module = projector(32, 16)
    assert {name for name, _ in module.named_parameters()} == PUBLISHED
    assert set(module.state_dict()) == PUBLISHED


def test_layer_norm_is_there_but_never_used():
    module = projector(32, 16)
    x = torch.randn(1, 48, 32, dtype=torch.float64)
    before = module(x)
    module(x).sum().backward()
    assert module.ln_1.weight.grad is None
    assert not any(p.requires_grad for p in module.ln_1.parameters())
    torch.nn.init.normal_(module.ln_1.weight)
    assert torch.equal(module(x), before)


def test_auto_classes_load_what_was_saved_with_equal_logits(tmp_path):
    saved = toy.policy()
    saved.save(tmp_path, made_by="test")
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SqlLavaConfig)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, use_safetensors=True).eval()
    assert isinstance(model, SqlLavaForConditionalGeneration)
    assert model.config.num_centers == 7
    ids = torch.tensor([[toy.IMAGE] * toy.NUM_PATCHES + [9, 8, 7]])
    pixels = saved.pixel_values([toy.open_image("a")])
    with torch.no_grad():
        assert torch.equal(
            model(input_ids=ids, pixel_values=pixels).logits,
            saved.model(input_ids=ids, pixel_values=pixels).logits,
        )


def test_a_policy_saved_and_loaded_keeps_tokenizer_format_and_provenance(tmp_path):
    saved = toy.policy("mlp")
    saved.save(tmp_path, made_by="test")
    loaded = Policy.load(tmp_path)
    assert loaded.format == saved.format
    assert loaded.provenance["made_by"] == "test"
    text = "USER: Is there a nodule?</s><vusr> é"
    assert loaded.encode(text) == saved.encode(text)
    picture = [toy.open_image("a")]
    assert torch.equal(loaded.pixel_values(picture), saved.pixel_values(picture))
