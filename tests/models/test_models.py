"""Networks: shapes, published numbers, written-out equations, and who gets which gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import lib.models
from lib.models import Backbone, ConvGRU, HydraActor, HydraCritic, UNet
from lib.models.backbone import (
    BiFPNLayer,
    Fusion,
    ProjectionHead,
    ReconstructionHead,
    RegNetBlock,
    conv_norm,
    regnet_widths,
    trunk_shape,
)
from lib.models.convgru import ConvGRUCell, append_action
from lib.models.hydra import EnsembleLinear, squashed_log_prob


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws its weights and inputs from the same seed."""
    torch.manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    """Standard normal float64 tensor."""
    return torch.randn(shape, dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Assert equality up to float64 rounding."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def parameters(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def randomise(module: torch.nn.Module) -> None:
    """Give every parameter a random value, also those that start at zero."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.3)


def test_every_public_name_resolves_and_unknown_names_are_attribute_errors():
    """__all__, __dir__ and __getattr__ agree."""
    for name in lib.models.__all__:
        assert issubclass(getattr(lib.models, name), torch.nn.Module)
        assert name in dir(lib.models)
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        _ = lib.models.Transformer


# Backbone


@pytest.mark.parametrize(
    ("rule", "widths", "depths"),
    [
        ((22, 24, 24.48, 2.54, 16), (32, 64, 160, 384), (1, 2, 7, 12)),  # RegNetX-400MF
        ((16, 48, 27.89, 2.09, 8), (48, 104, 208, 440), (1, 3, 6, 6)),  # RegNetY-400MF
        ((13, 24, 36.44, 2.49, 8), (24, 56, 152, 368), (1, 1, 4, 7)),  # RegNetX/Y-200MF
        ((16, 56, 35.73, 2.28, 16), (64, 128, 288, 672), (1, 3, 7, 5)),  # RegNetX-800MF
    ],
)
def test_regnet_widths_are_the_published_ones(rule, widths, depths):
    """Tables of the RegNet paper's model zoo (pycls)."""
    assert regnet_widths(*rule) == (widths, depths)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 30),
    st.floats(8, 100),
    st.floats(0, 60),
    st.floats(1.5, 3),
    st.sampled_from([8, 16, 24]),
)
def test_regnet_stages_hold_every_block_and_their_groups_divide_their_widths(d, w0, wa, wm, g):
    """Properties of the rule for any parameters."""
    widths, depths = regnet_widths(d, w0, wa, wm, g)
    assert sum(depths) == d
    assert list(widths) == sorted(widths)
    assert all(width % g == 0 and width > 0 for width in widths)


def test_regnet_widths_refuse_parameters_outside_the_rule():
    """A ratio of 1 has no logarithm to divide by."""
    with pytest.raises(ValueError, match="no RegNet"):
        regnet_widths(10, 24, 24.0, 1.0, 8)


@pytest.mark.parametrize("block", ["X", "Y"])
@pytest.mark.parametrize("size", ["tiny", "small", "400MF"])
def test_every_trunk_has_four_stages_whose_groups_divide_their_widths(size, block):
    """The forward pass relies on four stages; grouped convolutions on divisibility."""
    shape = trunk_shape(size, block)
    assert len(shape.widths) == len(shape.depths) == 4
    assert all(width % shape.group_width == 0 for width in shape.widths)


@pytest.mark.parametrize(("block", "published"), [("X", 5_157_512), ("Y", 4_344_144)])
def test_400mf_trunks_have_as_many_parameters_as_published(block, published):
    """With 1000 classes: X as in pycls and timm (5.2 M in the paper), Y also as in torchvision."""
    backbone = Backbone("400MF", block)
    width = trunk_shape("400MF", block).widths[-1]
    head = torch.nn.Linear(width, 1000)
    assert sum(map(parameters, (backbone.stem, backbone.stages, head))) == published


def test_torchvisions_regnet_x_400mf_differs_in_its_last_width_alone():
    """It rounds 392 channels up to 400, pycls down to 384; then the number is torchvision's."""
    blocks, inputs = torch.nn.ModuleList([conv_norm(3, 32, 3, stride=2)]), 32
    for width, depth in zip((32, 64, 160, 400), (1, 2, 7, 12), strict=True):
        for index in range(depth):
            blocks.append(RegNetBlock(inputs, width, 1 if index else 2, 16, excite=False))
            inputs = width
    assert parameters(blocks) + parameters(torch.nn.Linear(400, 1000)) == 5_495_976


def test_features_move_smoothly_while_the_picture_does():
    """No aliasing: the second pixel changes them much as the first did.

    The figure is the squared change of the change over the squared change. Its mean over random
    weights is 0.74, and 0.92 if strides drop neighbours, maxima are taken and maps get blocks.
    """
    scene = F.avg_pool2d(F.avg_pool2d(torch.rand(16, 3, 160, 160), 9, 1), 9, 1)
    scene = (scene - scene.mean()) / scene.std() * 0.2 + 0.5
    views = [scene[..., start : 96 + start, :96] for start in range(3)]
    figures = []
    for seed in range(3):
        torch.manual_seed(seed)
        backbone = Backbone()
        with torch.no_grad():
            for _ in range(20):
                backbone(views[0])  # sets the statistics of the normalisation
            backbone.eval()
            maps = torch.stack([backbone(view)["p4"][..., 1:-1, 1:-1] for view in views])
        first, second = maps.diff(dim=0)
        figures.append(float((second - first).square().mean() / first.square().mean()))
    assert sum(figures) / 3 < 0.8


@pytest.mark.parametrize("block", ["X", "Y"])
def test_backbone_gives_three_levels_at_strides_8_16_and_32(block):
    """96x96 gives 12, 6 and 3; sizes that 32 does not divide are rounded up."""
    backbone = Backbone("tiny", block, pyramid_channels=24, bifpn_layers=2).eval()
    for height, width in [(96, 96), (72, 100)]:
        levels = backbone(torch.rand(2, 3, height, width))
        assert list(levels) == list(backbone.channels) == ["p3", "p4", "p5"]
        for level, stride in zip(levels.values(), (8, 16, 32), strict=True):
            assert level.shape == (2, 24, math.ceil(height / stride), math.ceil(width / stride))


def test_tiny_backbone_is_about_a_quarter_of_a_million_parameters():
    """The size that processors train at hundreds of images a second."""
    assert 0.22e6 < parameters(Backbone("tiny")) < 0.28e6


def test_backbone_refuses_unknown_sizes_and_blocks():
    """The message names what was asked and what there is."""
    with pytest.raises(ValueError, match=r"'huge'.*'400MF'"):
        Backbone("huge")
    with pytest.raises(ValueError, match="'Z'"):
        Backbone(block="Z")


def test_backbone_in_eval_treats_each_image_alone_and_trains_every_parameter():
    """Frozen features do not depend on the batch; no part of the network is unused."""
    backbone = Backbone("tiny", "Y")
    images = torch.rand(3, 3, 64, 64)
    sum(level.square().mean() for level in backbone(images).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in backbone.parameters())
    backbone.eval()
    alone = backbone(images[1:2])
    for name, level in backbone(images).items():
        close(level[1:2], alone[name], 1e-4)


def test_squeeze_excite_width_is_a_quarter_of_the_blocks_input():
    """RegNetY's convention, unlike a quarter of the block's own width."""
    block = RegNetBlock(32, 64, 2, 16, excite=True)
    assert block.excite.squeeze.out_channels == 8
    assert isinstance(RegNetBlock(32, 64, 2, 16, excite=False).excite, torch.nn.Identity)


def test_fusion_is_the_fast_normalised_one():
    """relu(w_i) x_i / (sum relu(w) + 1e-4): negative weights switch an input off."""
    fusion = Fusion(3, 4).double().eval()
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([2.0, -5.0, 1.0]))
    a, b, c = normal(3, 1, 4, 5, 5)
    fused = (2 * a + c) / (3 + 1e-4)
    close(fusion(a, b, c), fusion.pointwise(fusion.depthwise(F.silu(fused))))


def test_bifpn_passes_information_between_all_levels():
    """Every output of one layer depends on every input."""
    layer = BiFPNLayer(4).double()
    inputs = [normal(2, 4, s, s).requires_grad_() for s in (8, 4, 2)]
    for output in layer(*inputs):
        for gradient in torch.autograd.grad(output.square().sum(), inputs, retain_graph=True):
            assert gradient.abs().sum() > 0


def test_heads_project_to_the_sphere_and_decode_to_eight_times_the_size():
    """SimCLR's unit vectors; P4 of a 96x96 image becomes 48x48 RGB in (0, 1)."""
    z = ProjectionHead(20, 16, 8)(torch.randn(5, 20))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    images = ReconstructionHead(48)(torch.randn(2, 48, 6, 6))
    assert images.shape == (2, 3, 48, 48)
    assert images.min() > 0
    assert images.max() < 1


# ConvGRU


def test_convgru_cell_equals_the_written_equations():
    """Gates and candidate convolved one by one; reset before the candidate's convolution."""
    cell = ConvGRUCell(3, 4).double()
    x, h = normal(2, 3, 5, 5), normal(2, 4, 5, 5)
    w_u, w_r, w_c = cell.input.weight.chunk(3)
    b_u, b_r, b_c = cell.input.bias.chunk(3)
    u_u, u_r = cell.gates.weight.chunk(2)

    def conv(maps: torch.Tensor, *weight_and_bias: torch.Tensor) -> torch.Tensor:
        return F.conv2d(maps, *weight_and_bias, padding=1)

    for _ in range(3):
        u = torch.sigmoid(conv(x, w_u, b_u) + conv(h, u_u))
        r = torch.sigmoid(conv(x, w_r, b_r) + conv(h, u_r))
        candidate = torch.tanh(conv(x, w_c, b_c) + conv(r * h, cell.candidate.weight))
        expected = (1 - u) * h + u * candidate
        actual = cell(x, h)
        close(actual, expected)
        x, h = normal(2, 3, 5, 5), actual


def test_convgru_cell_gradient_is_right():
    """Gradcheck in float64 for input and state."""
    cell = ConvGRUCell(2, 2).double()
    inputs = normal(1, 2, 3, 3).requires_grad_(), normal(1, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(cell, inputs)


def test_append_action_spreads_the_action_over_space():
    """Each action dimension becomes a constant plane behind the features."""
    maps, action = normal(3, 2, 4, 5, 6), normal(3, 2, 7)
    joined = append_action(maps, action)
    assert joined.shape == (3, 2, 11, 5, 6)
    assert (joined[:, :, :4] == maps).all()
    assert (joined[:, :, 4:] == action[..., None, None]).all()


def convgru_batch(steps: int = 5) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Two levels of features over time, and actions."""
    return {"p4": normal(steps, 2, 3, 4, 4), "p5": normal(steps, 2, 5, 2, 2)}, normal(steps, 2, 2)


@pytest.mark.parametrize("warmup", [1, 2, 3, 4, 5, 9])
def test_rollout_equals_a_naive_loop_over_observe_and_predict(warmup):
    """Doing all real frames in one convolution changes nothing; later frames are its own."""
    model = ConvGRU({"p4": 3, "p5": 5}, action_dim=2, hidden_channels=4).double()
    randomise(model)
    z, actions = convgru_batch()
    predictions, hidden = model.rollout(z, actions, warmup)
    h = model.initial_state(2, {"p4": (4, 4), "p5": (2, 2)})
    previous, imagined = torch.zeros_like(actions[0]), None
    for t in range(5):
        seen = {name: level[t] for name, level in z.items()} if t < warmup else imagined
        h = model.observe(seen, previous, h)
        imagined, previous = model.predict(seen, actions[t], h), actions[t]
        for name in z:
            close(hidden[name][t], h[name])
            if t < 4:
                close(predictions[name][t], imagined[name])
    assert predictions["p4"].shape == (4, 2, 3, 4, 4)
    assert hidden["p5"].shape == (5, 2, 4, 2, 2)


@pytest.mark.parametrize(
    "names",
    [("p3",), ("p4",), ("p5",), ("p3", "p4"), ("p3", "p5"), ("p4", "p5"), ("p3", "p4", "p5")],
)
def test_convgru_runs_any_combination_of_levels_each_as_if_alone(names):
    """Levels do not mix: a level's predictions are those of a model that has no other."""
    sizes = {"p3": 6, "p4": 3, "p5": 2}
    model = ConvGRU(dict.fromkeys(names, 3), action_dim=2, hidden_channels=4).double()
    randomise(model)
    z = {name: normal(4, 2, 3, sizes[name], sizes[name]) for name in names}
    actions = normal(4, 2, 2)
    predictions, hidden = model.rollout(z, actions, 2)
    assert list(predictions) == list(hidden) == list(names)
    for name in names:
        alone = ConvGRU({name: 3}, action_dim=2, hidden_channels=4).double()
        part = {k: v for k, v in model.state_dict().items() if f".{name}." in k}
        alone.load_state_dict(part)
        close(predictions[name], alone.rollout({name: z[name]}, actions, 2)[0][name])


def test_convgru_starts_as_exact_persistence():
    """Before training, real frames predict themselves and open loop repeats the last real one."""
    model = ConvGRU({"p4": 3, "p5": 5}, action_dim=2, hidden_channels=4).double()
    z, actions = convgru_batch()
    predictions, _ = model.rollout(z, actions, warmup=4)
    assert all((predictions[name] == z[name][:-1]).all() for name in z)
    predictions, _ = model.rollout(z, actions, warmup=2)
    assert (predictions["p4"][1:] == z["p4"][1]).all()


def test_rollout_sees_no_future():
    """Frames past the warm-up and the last action have no influence on any prediction."""
    model = ConvGRU({"p4": 3, "p5": 5}, action_dim=2, hidden_channels=4).double()
    randomise(model)
    z, actions = convgru_batch()
    before, _ = model.rollout(z, actions, warmup=2)
    for level in z.values():
        level[2:] = 100.0
    actions[-1] = 100.0
    after, _ = model.rollout(z, actions, warmup=2)
    assert all((before[name] == after[name]).all() for name in z)
    actions[0] = -100.0
    changed, _ = model.rollout(z, actions, warmup=2)
    assert all((before[name] != changed[name]).any() for name in z)


def test_rollout_refuses_what_it_cannot_run():
    """No real first frame, one frame only, or lengths that differ."""
    model = ConvGRU({"p4": 3}, action_dim=2, hidden_channels=4).double()
    z, actions = convgru_batch()
    with pytest.raises(ValueError, match="warmup is 0"):
        model.rollout(z, actions, 0)
    with pytest.raises(ValueError, match="two frames"):
        model.rollout({"p4": z["p4"][:1]}, actions[:1], 1)
    with pytest.raises(ValueError, match="two frames"):
        model.rollout(z, actions[:3], 1)


# U-Net


def test_unet_gives_logits_at_the_resolution_of_the_image():
    """Boundary and primitive logits for every pixel; every parameter is trained."""
    unet = UNet(3, num_classes=5, widths=[4, 8, 12])
    boundary, primitive = unet(torch.rand(2, 3, 16, 24))
    assert boundary.shape == (2, 1, 16, 24)
    assert primitive.shape == (2, 5, 16, 24)
    (boundary.square().mean() + primitive.square().mean()).backward()
    assert all(p.grad is not None for p in unet.parameters())


def test_unet_sees_both_fine_detail_and_wide_context():
    """Skips: a pixel answers to itself; depth: also to a pixel 20 columns away."""
    unet = UNet(1, num_classes=2).eval()
    image = torch.rand(1, 1, 32, 32, requires_grad=True)
    gradient = torch.autograd.grad(unet(image)[1][0, :, 16, 4].sum(), image)[0][0, 0]
    assert gradient[16, 4] != 0
    assert gradient[16, 24] != 0


@pytest.mark.parametrize("size", [(20, 16), (16, 12)])
def test_unet_refuses_sizes_that_its_levels_cannot_halve(size):
    """Four levels need multiples of 8."""
    with pytest.raises(ValueError, match="divisible by 8"):
        UNet(3, num_classes=2)(torch.rand(1, 3, *size))


# Hydra


def hydra_batch(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observation, condition, action and skill of each sample; skills 0, 1, 2 in turn."""
    return normal(batch, 5), normal(batch, 3), normal(batch, 2).tanh(), torch.arange(batch) % 3


def actor() -> HydraActor:
    """Small actor in float64: 5 + 3 inputs, 2 actions, 3 skills."""
    return HydraActor(5, 3, 2, 3, hidden=(16, 8)).double()


def critic() -> HydraCritic:
    """Small ensemble in float64: 4 critics of 3 objectives, 3 skills."""
    return HydraCritic(5, 3, 2, 3, num_objectives=3, num_critics=4, hidden=(16, 8)).double()


def test_actor_heads_equal_a_loop_over_samples():
    """Each sample is answered by the head of its skill, as if it were alone."""
    policy = actor()
    obs, condition, _, skill = hydra_batch()
    mean, log_std = policy(obs, condition, skill)
    for i, s in enumerate(skill):
        x = policy.trunk(torch.cat([obs[i], condition[i]]))
        outputs = policy.heads(x)[4 * s : 4 * s + 4]
        close(mean[i], outputs[:2])
        close(log_std[i], -5 + 3.5 * (outputs[2:].tanh() + 1))


def test_critic_ensemble_equals_a_loop_over_critics_and_samples():
    """Batched products are N separate networks with layer normalisation."""
    ensemble = critic()
    obs, condition, action, skill = hydra_batch()
    q = ensemble(obs, condition, action, skill)
    assert q.shape == (4, 6, 3)
    for n in range(4):
        x = torch.cat([obs, condition, action], dim=1)
        for linear in ensemble.trunk[0::3]:
            x = x @ linear.weight[n] + linear.bias[n]
            x = F.relu(F.layer_norm(x, x.shape[-1:]))
        for i, s in enumerate(skill):
            heads = x[i] @ ensemble.heads.weight[n] + ensemble.heads.bias[n, 0]
            close(q[n, i], heads[3 * s : 3 * s + 3])


def test_the_head_of_one_skill_gets_no_gradient_from_another():
    """Samples of skill 1 train head 1 and the trunk, and nothing else."""
    policy, ensemble = actor(), critic()
    obs, condition, action, _ = hydra_batch()
    skill = torch.ones(6, dtype=torch.long)
    policy.sample(obs, condition, skill)[1].sum().backward()
    ensemble(obs, condition, action, skill).square().sum().backward()
    for gradient in (policy.heads.weight.grad, policy.heads.bias.grad):
        by_skill = gradient.unflatten(0, (3, 4))
        assert (by_skill[[0, 2]] == 0).all()
        assert (by_skill[1] != 0).any()
    for gradient in (ensemble.heads.weight.grad, ensemble.heads.bias.grad):
        by_skill = gradient.unflatten(-1, (3, 3))
        assert (by_skill[..., [0, 2], :] == 0).all()
        assert (by_skill[..., 1, :] != 0).any()
    assert policy.trunk[0].weight.grad.any()
    assert ensemble.trunk[0].weight.grad.any()


def test_sampled_log_probability_is_that_of_the_transformed_distribution():
    """Against torch.distributions with its cached inverse, to 1e-9 in float64."""
    policy = actor()
    obs, condition, _, skill = hydra_batch()
    action, log_prob, deterministic = policy.sample(
        obs, condition, skill, torch.Generator().manual_seed(1)
    )
    mean, log_std = policy(obs, condition, skill)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    squash = TanhTransform(cache_size=1)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), [squash])
    expected_action = squash(mean + log_std.exp() * noise)
    close(action, expected_action)
    close(log_prob, squashed.log_prob(expected_action).sum(-1), 1e-9)
    close(deterministic, policy.act(obs, condition, skill))
    assert action.abs().max() < 1


def test_squashed_density_integrates_to_one_and_stays_finite_in_saturation():
    """Independent of anyone's formula: the density over actions has a mass of 1."""
    action = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1, None]
    u, log_std = action.atanh(), torch.full_like(action, -0.7)
    noise = (u - 0.4) / log_std.exp()
    mass = squashed_log_prob(noise, log_std, u).exp().sum() * (2 / 200_000)
    assert abs(mass - 1) < 1e-6
    saturated = torch.tensor([[50.0]])
    assert squashed_log_prob(torch.zeros(1, 1), torch.zeros(1, 1), saturated).isfinite().all()


def test_log_std_stays_within_its_bounds_for_any_weights():
    """Weights a thousand times too large still give a usable policy."""
    policy = actor()
    with torch.no_grad():
        policy.heads.weight.mul_(1e3)
    obs, condition, _, skill = hydra_batch()
    log_std = policy(obs, condition, skill)[1]
    assert log_std.min() >= -5
    assert log_std.max() <= 2


def test_sampling_repeats_with_its_generator():
    """Same generator seed, same actions; another seed, others."""
    policy, (obs, condition, _, skill) = actor(), hydra_batch()
    first, second, other = (
        policy.sample(obs, condition, skill, torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    )
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.parametrize("unknown", [-1, 3])
def test_unknown_skills_are_refused(unknown):
    """An index outside the heads is a ValueError, not somebody else's head."""
    obs, condition, action, skill = hydra_batch()
    skill[2] = unknown
    with pytest.raises(ValueError, match="heads 0 to 2"):
        actor()(obs, condition, skill)
    with pytest.raises(ValueError, match="heads 0 to 2"):
        critic()(obs, condition, action, skill)


def test_hydra_outputs_are_full_precision_under_autocast():
    """Log-probabilities and values are float32 even where products run in bfloat16."""
    obs, condition, action, skill = (
        x.float() if x.is_floating_point() else x for x in hydra_batch()
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert actor().float().sample(obs, condition, skill)[1].dtype == torch.float32
        assert critic().float()(obs, condition, action, skill).dtype == torch.float32


def test_some_critics_give_what_they_give_among_all():
    """And with the same gradients."""
    ensemble, (obs, condition, action, skill) = critic(), hydra_batch()
    members = slice(1, 3)
    inputs = (obs, condition, action.requires_grad_(), skill)
    some, every = ensemble.subset(members, *inputs), ensemble(*inputs)
    close(some, every[members])
    gradients = [torch.autograd.grad(q.square().sum(), action)[0] for q in (some, every[members])]
    close(*gradients)


def test_values_far_from_zero_keep_their_digits_under_autocast():
    """Half a step of bfloat16 at -100 is 0.25; only the trunk's features are rounded."""
    ensemble, (obs, condition, action, skill) = critic().float(), hydra_batch()
    inputs = (obs.float(), condition.float(), action.float(), skill)
    with torch.no_grad():
        ensemble.heads.bias.fill_(-100.3)
        exact = ensemble(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = ensemble(*inputs)
    assert (rounded - exact).abs().max() < 0.03
    assert (exact.bfloat16().float() - exact).abs().max() > 0.1


def test_batched_linear_layers_start_like_torch_linear():
    """Uniform within 1 / sqrt(inputs): same bound, mean and spread, different in each member."""
    layer, reference = EnsembleLinear(3, 100, 400), torch.nn.Linear(100, 400)
    for batched, single in ((layer.weight, reference.weight), (layer.bias, reference.bias)):
        assert batched.abs().max() <= 0.1
        assert abs(batched.abs().max() - single.abs().max()) < 1e-3
        assert abs(batched.std() / single.std() - 1) < 0.05
    assert (layer.weight[0] != layer.weight[1]).any()
