"""Declare the packages: three top-level folders install inside ``vidapt`` so that they shadow nobody's package."""

from setuptools import find_namespace_packages, setup

ROOTS = {"vidapt": "vidapt", "vidapt.kernels": "kernels", "vidapt.datasets": "datasets", "vidapt.configs": "configs"}

INSTALL_REQUIRES = [
    "torch>=2.11",
    "torchvision>=0.26",
    "triton>=3.6; sys_platform == 'linux'",
    "timm>=1.0.20",
    "einops>=0.8",
    "open_clip_torch>=3.0",
    "av>=14",
    "decord>=0.6; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "numpy>=2.0",
    "scipy>=1.13",
    "opencv-python-headless>=4.10",
    "pillow>=10.3",
    "safetensors>=0.5",
    "accelerate>=1.2",
    "pydantic>=2.8",
    "pyyaml>=6.0.1",
    "typer>=0.20",
    "rich>=13.7",
    "tensorboard>=2.17",
    "matplotlib>=3.9",
    "jinja2>=3.1",
]

TEST = ["pytest>=8.2", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100"]
PARITY = ["pycocotools>=2.0.8", "faster-coco-eval>=1.6", "pyquaternion>=0.9.9"]
DEV = ["ruff>=0.9", "mypy>=1.13", "types-PyYAML", "setuptools>=77", "build"]

setup(
    packages=[
        package
        for name, root in ROOTS.items()
        for package in (name, *(f"{name}.{sub}" for sub in find_namespace_packages(root, exclude=["bench.results"])))
    ],
    package_dir=dict(ROOTS),
    package_data={"": ["*.yaml", "*.json", "*.html", "py.typed"]},
    exclude_package_data={"vidapt.kernels.bench": ["results/*"]},
    install_requires=INSTALL_REQUIRES,
    extras_require={"test": TEST, "parity": PARITY, "dev": TEST + PARITY + DEV},
)
