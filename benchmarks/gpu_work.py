"""The measurements of ``gpu.py``, which runs each in a separate process.

A measurement is a function of this module; its keyword arguments are the fields of
`Task` that it names. It prints nothing; its result goes to the parent as JSON.
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any


def timed(work: Callable[[], Any], steps: int) -> float:
    """Returns the seconds of one `work`, the median of three turns after two calls."""
    for _ in range(2):
        work()
    turns = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(steps):
            work()
        turns.append((time.perf_counter() - started) / steps)
    return statistics.median(turns)


def queued(call: Callable[[], Any], wait: Callable[[Any], Any], steps: int) -> float:
    """Returns the seconds of one call while the device is never idle."""

    def work() -> None:
        wait([call() for _ in range(steps)][-1])

    return timed(work, 1) / steps


# Ours ---------------------------------------------------------------------------------


def our_device() -> dict[str, Any]:
    import jax

    one = jax.devices()[0]
    return {"backend": one.platform, "device": one.device_kind}


def our_matrix_rate(*, size: int, steps: int) -> dict[str, float]:
    """Returns the rate of one large matrix product, taken as 100 % utilization."""
    import jax
    import jax.numpy as jnp

    left = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    seconds = queued(lambda: product(left, left), jax.block_until_ready, steps)
    return {"flops_per_second": 2 * size**3 / seconds}


def our_model(model: str, side: int, remat: bool, dtype: str):
    from our_programs import Ours

    name = f"efficientnet_{model}"
    return Ours.make(name, side=side, dtype=dtype, remat=remat)


def our_training(
    *, model: str, side: int, batch: int, steps: int, remat: bool, dtype: str
) -> dict[str, float]:
    """Returns images per second of the training step on one batch on the device."""
    import jax

    step, state, placed, _ = _trained(model, side, batch, remat, dtype)
    started = time.perf_counter()
    compiled = step.lower(state, placed).compile()
    compile_seconds = time.perf_counter() - started

    def call():
        nonlocal state
        state, metrics = compiled(state, placed)
        return metrics

    seconds = queued(call, jax.block_until_ready, steps)
    return {
        "images_per_second": batch / seconds,
        "seconds_per_step": seconds,
        "compile_seconds": compile_seconds,
        "temporary_gb": compiled.memory_analysis().temp_size_in_bytes / 1e9,
    }


def _trained(model: str, side: int, batch: int, remat: bool, dtype: str):
    import jax

    from noisy_student_jax.core import sharding
    from noisy_student_jax.core.batch_layout import BatchLayout
    from noisy_student_jax.training.step import jit_train_step

    ours = our_model(model, side, remat, dtype)
    mesh = sharding.make_mesh(jax.devices()[:1])
    step, state = ours.training()
    return (
        jit_train_step(step, mesh),
        jax.device_put(state, sharding.replicated(mesh)),
        sharding.put_batch(ours.batch(BatchLayout(batch, 0)), mesh),
        mesh,
    )


def our_labeling(
    *, model: str, side: int, batch: int, steps: int, dtype: str
) -> dict[str, float]:
    """Returns images per second of the labeling program."""
    import jax

    ours = our_model(model, side, False, dtype)
    predictor, placed = ours.predictor(batch)
    images = jax.device_put(ours.images(predictor.batch))
    seconds = queued(
        lambda: predictor.apply(placed, images), jax.block_until_ready, steps
    )
    return {"images_per_second": predictor.batch / seconds}


def our_parts(
    *, model: str, side: int, batch: int, steps: int, remat: bool, dtype: str
) -> dict[str, Any]:
    """Returns the time of a step with RandAugment in front of it, by part."""
    import jax
    import numpy as np
    import step_parts

    from noisy_student_jax.augment.input_noise import InputNoise
    from noisy_student_jax.augment.noise import split_positions
    from noisy_student_jax.augment.sharded import augment_spread
    from noisy_student_jax.data.pipelines.draws import stream_keys

    step, state, placed, mesh = _trained(model, side, batch, remat, dtype)
    noise = InputNoise(randaugment_layers=2, randaugment_magnitude=27.0, flip=True)
    (key,) = stream_keys(1, seed=0, generation=0, mesh=mesh)
    positions = jax.device_put(split_positions(np.arange(batch)))

    def augment(positions, images):
        return augment_spread(mesh, key, positions, images, noise)

    augment = jax.jit(augment).lower(positions, placed["image"]).compile()
    compiled = step.lower(state, placed).compile()

    def work() -> None:
        nonlocal state
        for _ in range(steps):
            images = augment(positions, placed["image"])
            state, metrics = compiled(state, {**placed, "image": images})
        jax.block_until_ready(metrics)

    per_step = timed(work, 1) / steps
    seconds, unknown = step_parts.seconds_by_part(
        work, {"jit_augment": augment.as_text(), "jit_step": compiled.as_text()}
    )
    return {
        "ms_per_step": 1e3 * per_step,
        "ms": {name: 1e3 * one / steps for name, one in seconds.items()},
        "unnamed_ms": 1e3 * unknown / steps,
    }


def our_layouts(
    *, model: str, side: int, batch: int, steps: int, dtype: str
) -> list[dict[str, Any]]:
    """Times each kind of the model's convolutions, channels last and channels first."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    found = []
    for shape, kernel, stride, groups in _convolutions(model, side, batch, dtype):
        case = {
            "images": list(shape),
            "kernel": list(kernel),
            "stride": stride,
            "depthwise": groups > 1,
        }
        for layout in ("NHWC", "NCHW"):
            images = jnp.ones([shape["NHWC".index(axis)] for axis in layout], dtype)
            weights = jnp.ones(kernel, dtype)

            def both(images, weights, layout=layout, stride=stride, groups=groups):
                def loss(images, weights):
                    return lax.conv_general_dilated(
                        images,
                        weights,
                        (stride, stride),
                        "SAME",
                        dimension_numbers=(layout, "HWIO", layout),
                        feature_group_count=groups,
                    ).sum(dtype=jnp.float32)

                return jax.grad(loss, (0, 1))(images, weights)

            call = functools.partial(jax.jit(both), images, weights)
            seconds = queued(call, jax.block_until_ready, steps)
            case[f"{layout.lower()}_ms"] = 1e3 * seconds
        found.append(case)
    return found


def _convolutions(model: str, side: int, batch: int, dtype: str):
    """Returns input, kernel, stride and groups of each kind of convolution, once."""
    import jax
    import jax.numpy as jnp

    from noisy_student_jax.models.initialize import with_grouped_convolutions

    ours = our_model(model, side, False, dtype)
    module = with_grouped_convolutions(ours.module)
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda v, x: module.apply(v, x, train=False))(
        ours.variables, images
    )
    kinds = {}
    for equation in _equations(jaxpr.jaxpr):
        if equation.primitive.name != "conv_general_dilated":
            continue
        shape, kernel = (one.aval.shape for one in equation.invars)
        # Squeeze-and-excitation has one pixel, so layout does not matter.
        if shape[1] > 1:
            told = equation.params
            stride, groups = told["window_strides"][0], told["feature_group_count"]
            kinds[(shape, kernel, stride, groups)] = None
    return list(kinds)


def _equations(jaxpr):
    from jax.extend.core import ClosedJaxpr, Jaxpr

    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if isinstance(inner, Jaxpr):
                yield from _equations(inner)


def our_flops(*, model: str, side: int) -> dict[str, int]:
    """Returns the FLOPs of one image's forward pass."""
    from noisy_student_jax import models
    from noisy_student_jax.models import cost

    module = models.create(f"efficientnet_{model}", outputs=1000)
    return {"flops": cost.forward_flops(module, resolution=side)}


# The peer's ---------------------------------------------------------------------------


def _torch():
    """Imports PyTorch, and timm as it can be imported without torchvision."""
    import torch
    from without_torchvision import import_timm

    return torch, import_timm(), "cuda" if torch.cuda.is_available() else "cpu"


def peer_device() -> dict[str, Any]:
    torch, timm, device = _torch()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    return {"backend": device, "device": name, "versions": versions}


def _synchronized(torch, device: str) -> Callable[[Any], None]:
    return lambda _: torch.cuda.synchronize() if device == "cuda" else None


def peer_matrix_rate(*, size: int, steps: int) -> dict[str, float]:
    torch, _, device = _torch()
    left = torch.ones((size, size), dtype=torch.bfloat16, device=device)
    seconds = queued(lambda: left @ left, _synchronized(torch, device), steps)
    return {"flops_per_second": 2 * size**3 / seconds}


def _peer_model(torch, timm, device: str, model: str, remat: bool):
    torch.manual_seed(0)
    made = timm.create_model(
        f"tf_efficientnet_{model}", drop_rate=0.2, drop_path_rate=0.2
    )
    made = made.to(device, memory_format=torch.channels_last)
    if remat:
        made.set_grad_checkpointing(True)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return made


def _cast(torch, device: str, dtype: str):
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)


def peer_training(
    *,
    model: str,
    side: int,
    batch: int,
    steps: int,
    remat: bool,
    dtype: str,
    compile_peer: bool,
) -> dict[str, float]:
    """Times the same step: normalization, the model's noise, loss, RMSProp, average."""
    torch, timm, device = _torch()
    module = _peer_model(torch, timm, device, model, remat).train()
    weights = list(module.parameters())
    average = [one.detach().clone() for one in weights]
    decayed = [one for one in weights if one.ndim > 1]
    rest = [one for one in weights if one.ndim <= 1]
    optimizer = torch.optim.RMSprop(
        [{"params": decayed, "weight_decay": 1e-5}, {"params": rest}],
        lr=1e-3,
        alpha=0.9,
        eps=1e-3,
        momentum=0.9,
        foreach=True,
    )
    pixels, normalized = _pixels(torch, device, batch, side)
    labels = torch.randint(0, 1000, (batch,), device=device)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward():
        with _cast(torch, device, dtype):
            return loss_of(module(normalized(pixels)).float(), labels)

    forward = torch.compile(forward) if compile_peer else forward

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [one.detach() for one in weights], 1e-4)

    started = time.perf_counter()
    call()
    _synchronized(torch, device)(None)
    first = time.perf_counter() - started
    seconds = queued(call, _synchronized(torch, device), steps)
    return {
        "images_per_second": batch / seconds,
        "seconds_per_step": seconds,
        "compile_seconds": first - seconds,
    }


def peer_labeling(
    *, model: str, side: int, batch: int, steps: int, dtype: str, compile_peer: bool
) -> dict[str, float]:
    torch, timm, device = _torch()
    module = _peer_model(torch, timm, device, model, False).eval()
    pixels, normalized = _pixels(torch, device, batch, side)

    def forward():
        with _cast(torch, device, dtype):
            return module(normalized(pixels)).float().softmax(1)

    forward = torch.compile(forward) if compile_peer else forward
    with torch.inference_mode():
        seconds = queued(forward, _synchronized(torch, device), steps)
    return {"images_per_second": batch / seconds}


def _pixels(torch, device: str, batch: int, side: int):
    shape = (batch, side, side, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1) * 255
    # Channels last in memory.
    return pixels.permute(0, 3, 1, 2), lambda pixels: (pixels.float() - mean) / std
