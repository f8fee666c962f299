"""Texts as classes: a small CLIP and SigLIP, with tokenizers made here, against hooks and loops."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from conftest import pictures, randomize, words_in
from PIL import Image
from torch.testing import assert_close

from vit_tutorial import AttentionExplorer, record_attention, relevance
from vit_tutorial.attention import methods_for
from vit_tutorial.cli import main
from vit_tutorial.explain import explain
from vit_tutorial.pretrained import load_network
from vit_tutorial.zero_shot import ZeroShotClassifier

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TEXTS = ["a cat", "a sofa", "two cats"]
WORDS = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=12, vocab_size=40,
)  # fmt: skip
SIGHT = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
    image_size=32, patch_size=8,
)  # fmt: skip


def tokenizer_in(folder) -> transformers.CLIPTokenizer:
    """Letters, alone and at the end of a word, and nothing merged."""
    letters = sorted(set("".join(TEXTS).replace(" ", "")))
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.fixture(params=["CLIP", "Siglip"])
def two_towers(request, tmp_path):
    """A network with random weights and a tokenizer."""
    kind, tokenizer = request.param, tokenizer_in(tmp_path)
    words = {**WORDS, "eos_token_id": tokenizer.eos_token_id, "vocab_size": len(tokenizer)}
    config = getattr(transformers, f"{kind}Config")(
        text_config=words, vision_config=SIGHT, **({"projection_dim": 12} if kind == "CLIP" else {})
    )
    return randomize(getattr(transformers, f"{kind}Model")(config)), tokenizer


def tokens_of(tokenizer):
    return tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt")


def chefer_by_hooks(model, inputs, images, text) -> torch.Tensor:
    """Chefer's rule on the weights that Transformers itself gives, for the model's own score."""
    model.set_attn_implementation("eager")
    kept = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda m, i, output: kept.append(output[1]))
        for layer in model.vision_model.encoder.layers
    ]
    logits = model(**inputs, pixel_values=images).logits_per_image
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(logits[:, text].sum(), kept)
    tokens = kept[0].shape[-1]
    whole = torch.eye(tokens, dtype=torch.float64).expand(len(images), -1, -1)
    for weights, gradient in zip(kept, gradients, strict=True):
        whole = whole + (weights * gradient).clamp_min(0).mean(1) @ whole
    prefix = tokens - 16
    rows = whole[:, 0, 1:] if prefix else whole.mean(1)  # of the class token, or of all it pools
    return rows.unflatten(1, (4, 4)).detach()


def test_relevance_for_a_text_is_chefers_on_the_models_own_score(two_towers):
    model, tokenizer = two_towers
    images, inputs = pictures(2, (32, 32)), tokens_of(tokenizer)
    expected = model(**inputs, pixel_values=images).logits_per_image.detach()
    classifier = ZeroShotClassifier(model, tokenizer, TEXTS)
    assert_close(classifier(images).detach(), expected)
    for text in range(3):
        record = record_attention(classifier, images, gradients_of=text)
        assert_close(record.logits, expected)
        assert_close(relevance(record), chefer_by_hooks(model, inputs, images, text))
        model.set_attn_implementation("sdpa")
    probabilities = expected.softmax(1) if model.config.model_type == "clip" else expected.sigmoid()
    assert_close(record.probabilities(), probabilities.float())
    assert ("legrad" in methods_for(record)) == (model.config.model_type == "clip")


def test_the_readme_shows_it_in_two_lines(two_towers):
    code = re.search(r"```python\n([^`]*ZeroShotClassifier.*?)```", README, flags=re.DOTALL)[1]
    model, tokenizer = two_towers
    *lines, last = code.strip().splitlines()
    scope = {"model": model, "tokenizer": tokenizer, "pixels": pictures(1, (32, 32))}
    exec("\n".join(lines), scope)
    inputs = tokenizer(
        ["a cat", "a sofa"], padding="max_length", max_length=12, return_tensors="pt"
    )
    came = eval(last, scope)
    assert_close(came, chefer_by_hooks(model, inputs, scope["pixels"], 0))


def test_legrad_of_clip_is_its_authors(two_towers):
    """Their `compute_legrad_clip`, of the last two layers: of ln_post(mean of tokens) @ proj."""
    model, tokenizer = two_towers
    if model.config.model_type != "clip":
        pytest.skip("its head pools by attention")
    images, inputs = pictures(2, (32, 32)), tokens_of(tokenizer)
    record = record_attention(
        ZeroShotClassifier(model, tokenizer, TEXTS), images, gradients_of=1, layers=[1, 2]
    )
    model.set_attn_implementation("eager")
    words = model.get_text_features(**inputs).pooler_output[1]
    weights, features, vision = [], [], model.vision_model
    hooks = [
        hook
        for layer in vision.encoder.layers
        for hook in (
            layer.self_attn.register_forward_hook(lambda m, i, output: weights.append(output[1])),
            layer.register_forward_hook(lambda m, i, output: features.append(output)),
        )
    ]
    model.get_image_features(pixel_values=images)
    for hook in hooks:
        hook.remove()
    total = torch.zeros(2, 16, dtype=torch.float64)
    for layer in (1, 2):
        seen = model.visual_projection(vision.post_layernorm(features[layer].mean(dim=1)))
        score = (seen / seen.norm(dim=1, keepdim=True)) @ (words / words.norm())
        (gradient,) = torch.autograd.grad(score.sum(), weights[layer], retain_graph=True)
        total += gradient.clamp_min(0).mean(dim=1).mean(dim=1)[:, 1:]
    came = relevance(record, method="legrad").flatten(1)
    scale = model.logit_scale.exp().item()  # theirs is without, and they add up the layers
    assert_close(came, scale * total.detach() / 2)


def saved(two_towers, folder) -> str:
    model, tokenizer = two_towers
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reader = transformers.CLIPImageProcessor if "CLIP" in type(model).__name__ else (
        transformers.SiglipImageProcessor
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    reader(size=size, crop_size=size).save_pretrained(folder)
    return f"hf:{folder}"


def test_the_command_draws_one_map_for_each_text(two_towers, tmp_path, capsys):
    name = saved(two_towers, tmp_path / "model")
    photo = tmp_path / "photo.png"
    Image.fromarray(
        (255 * pictures(1, (40, 32))[0].sigmoid()).byte().permute(1, 2, 0).numpy()
    ).save(photo)
    model, reading = load_network(name, TEXTS)
    assert list(reading.classes) == TEXTS
    explained = [explain(model, photo, reading, method="chefer", target=t) for t in TEXTS]
    assert not torch.allclose(explained[0].heat, explained[1].heat)
    one_of_them = two_towers[0].config.model_type == "clip"
    assert (sum(explained[0].probabilities) == pytest.approx(1)) == one_of_them
    for each, text in zip(explained, TEXTS, strict=True):
        assert each.target == text
        assert any(f"Chefer for {text}" in words for words in words_in(each.figure()))
    command = ["explain", str(photo), "--model", name, "--text", *TEXTS]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert all(line in said for line in explained[0].lines())
    assert (tmp_path / "photo.explained.png").is_file()
    page = tmp_path / "photo.html"
    assert main([*command, "--out", str(page)]) == 0
    for text in TEXTS:
        assert f"photo.png: {text}" in page.read_text(encoding="utf-8")
    made = AttentionExplorer(model, photo, reading, target="a sofa")
    shown = made.values(show="chefer")[-16:].reshape(4, 4)
    assert_close(torch.from_numpy(shown.copy()), explained[1].heat)


def refused(capsys, *arguments) -> str:
    assert main(["explain", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_texts_that_cannot_be_read_are_refused_in_a_sentence(two_towers, tmp_path, capsys):
    name, photo = saved(two_towers, tmp_path / "model"), tmp_path / "photo.png"
    Image.new("RGB", (32, 32)).save(photo)
    for asked, sentence in (
        (["--model", name], "has no classes but what it is asked for: give texts"),
        (["--model", "digits", "--text", "a cat"], "digits reads no texts: a CLIP or SigLIP does"),
        (["--model", name, "--text", "a cat", "a cat"], "one or more different texts"),
        (["--model", name, "--text", " "], "one or more different texts"),
        (["--model", name, "--text", "a cat", "--target", "1"], "give --text or --target"),
        (["--model", name, "--text", "two cats at a sofa"], "reads 12 tokens, got 16"),
        (["--model", name, "--text", "a cat", "--method", "rollout"], "does not use target"),
        (["--model", name, "--text", *TEXTS, "--out", "a.gif"], "a .gif shows one text, got 3"),
    ):
        assert sentence in refused(capsys, photo, *asked), asked


def test_a_network_without_a_text_tower_reads_no_texts(tmp_path, capsys):
    config = transformers.ViTConfig(**SIGHT, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    asked = ("--model", f"hf:{tmp_path}", "--text", "a cat")
    assert "ViTModel reads no texts: expected a CLIPModel or SiglipModel" in refused(
        capsys, tmp_path / "photo.png", *asked
    )
