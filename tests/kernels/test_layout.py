"""The folder kernels/ stands in nobody's way."""

import json
import os
import subprocess
import sys

LIBRARIES = """
import json, transformers, trl, bitsandbytes, posttrain_kernels
from transformers.utils import is_kernels_available
print(json.dumps([is_kernels_available(), posttrain_kernels.__file__]))
"""
STAND_IN = """
import importlib.metadata, json, kernels
print(json.dumps([kernels.get_kernel("a"), importlib.metadata.version("kernels")]))
"""


def run(program: str, root, *more):
    """What the program prints when it is started in the repository's root."""
    path = os.pathsep.join(map(str, [root, root / "kernels", *more]))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_libraries_do_not_take_our_folder_for_their_package(root):
    """Beside it, all three import; none believes that `kernels` is installed."""
    available, ours = run(LIBRARIES, root)
    assert not available
    assert ours == str(root / "kernels/posttrain_kernels/__init__.py")


def test_the_distribution_named_kernels_is_found_before_our_folder(root, tmp_path):
    (tmp_path / "kernels").mkdir()
    text = "def get_kernel(name):\n    return 'theirs'\n"
    (tmp_path / "kernels/__init__.py").write_text(text)
    information = tmp_path / "kernels-0.99.0.dist-info"
    information.mkdir()
    metadata = "Metadata-Version: 2.1\nName: kernels\nVersion: 0.99.0\n"
    (information / "METADATA").write_text(metadata)
    assert run(STAND_IN, root, tmp_path) == ["theirs", "0.99.0"]


def test_the_folder_is_no_package(root):
    assert not (root / "kernels/__init__.py").exists()
