"""Variables of the environment that change results.

Draws and precision do not depend on the environment: a variable that would change them
is not followed (`PINNED`), or refused where that is impossible. Others may change how
XLA rounds; they are recorded with each stage, which says if they change.
"""

import os
import re
from typing import Any

from noisy_student_jax.core import console
from noisy_student_jax.core.errors import UserError, one_line

PINNED: dict[str, Any] = {
    # What is drawn.
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_legacy_prng_key": "allow",
    "jax_enable_custom_prng": False,
    # How precisely is computed.
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_allow_f16_reductions": True,
    "jax_disable_jit": False,
    # What raises errors in the middle of a program.
    "jax_numpy_rank_promotion": "allow",
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_debug_key_reuse": False,
    "jax_check_tracer_leaks": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "jax_transfer_guard": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
    "jax_array_garbage_collection_guard": None,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}
"""Value of each of JAX's settings that no variable may change."""

OTHERS = (
    *("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "TF_ENABLE_ONEDNN_OPTS"),
    *("TF_XLA_FLAGS", "TF_CUDNN_DETERMINISTIC", "CUBLAS_WORKSPACE_CONFIG"),
)
"""Variables beside JAX's that may change how results are rounded."""
HARMLESS = re.compile(
    r"JAX_(COMPILATION_CACHE|PERSISTENT_CACHE|ENABLE_COMPILATION_CACHE|LOG|DUMP"
    r"|TRACEBACK|EXPLAIN|PPRINT|PLATFORM|PROFILE|RAISE_PERSISTENT|.*_VISIBLE_DEVICES"
    r"|NUM_CPU_DEVICES|CPU_COLLECTIVES|CPU_ENABLE_ASYNC|CHECK_PROXY|DEBUG_LOG"
    r"|INCLUDE_.*|TRACER_ERROR|HLO_SOURCE|SOURCE_URL|DISTRIBUTED|COORDINATOR)\w*"
)
"""Variables of JAX that change no result, or what is recorded anyway."""
HARMLESS_FLAG = re.compile(r"--xla_(force_host_platform_device_count|dump_\w+)(=|$)")
FAST_MATH = re.compile(r"--\w*fast_math(=(?!false$|0$).*)?$")
"""A flag of XLA that lets it assume that there are no NaNs, and round as it likes."""


def pin() -> None:
    """Imports JAX and sets what no variable may change.

    Raises:
      UserError: a variable cannot be followed, and not be left aside either.
    """
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        flags = os.environ.get(name, "").split()
        fast = [flag for flag in flags if FAST_MATH.match(flag)]
        if fast:
            raise UserError(
                f"{name} has {fast[0]}, with which results are wrong where numbers are"
                " not finite, and rounded anew by each version: remove it"
            )
    try:
        import jax
    except ValueError as error:  # a variable has a value that JAX does not know
        raise UserError(
            f"JAX does not take a variable of the environment ({one_line(error)}):"
            " correct it, or unset it"
        ) from error

    left = []
    for setting, wanted in PINNED.items():
        variable = setting.upper()
        if variable not in os.environ or setting not in jax.config.values:
            continue
        if jax.config.values[setting] != wanted:
            jax.config.update(setting, wanted)
            left.append(f"{variable}={os.environ[variable]}")
    # Whatever a version's own default is.
    jax.config.update("jax_threefry_partitionable", True)
    if left:
        console.warn(
            f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} not followed:"
            " results do not depend on it"
        )


def recorded() -> dict[str, str]:
    """Returns the variables that may change how results are rounded, with values."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name in OTHERS
        or (
            name.startswith("JAX_")
            and not HARMLESS.fullmatch(name)
            and name.lower() not in PINNED
        )
    }
    flags = os.environ.get("XLA_FLAGS", "").split()
    if told := sorted(flag for flag in flags if not HARMLESS_FLAG.match(flag)):
        found["XLA_FLAGS"] = " ".join(told)
    return dict(sorted(found.items()))
