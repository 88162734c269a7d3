"""Builds the image for real, on a base system made by debootstrap: no registry of images is asked."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.checkout import ROOT

CACHE = ROOT / ".cache"
RELEASE = "bookworm"
"""That of the Containerfile's default base."""
NAME = "localhost/cloudmanager-test-base"

Podman = Callable[..., "subprocess.CompletedProcess[str]"]


def _run(*command: str | Path, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def _mirror() -> list[str]:
    """Where this machine gets that release from. Empty: debootstrap knows Debian's own address."""
    return _run("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {RELEASE}").stdout.split()[:1]


@pytest.fixture(scope="session")
def base_system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minimal Debian as an archive, made once. It reaches its mirror in the way that this machine does."""
    archive = CACHE / f"{RELEASE}.tar"
    if not archive.exists():
        root = tmp_path_factory.mktemp("base") / "root"
        _run("debootstrap", "--variant=minbase", RELEASE, root, *_mirror())
        settings = _run("apt-config", "dump", "--format", '%f "%v";%n', "Acquire").stdout
        (root / "etc/apt/apt.conf.d/50builder").write_text(settings)
        CACHE.mkdir(exist_ok=True)
        _run("tar", "--create", "--file", f"{archive}.part", "--directory", root, ".")
        Path(f"{archive}.part").rename(archive)
        shutil.rmtree(root)
    return archive


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which buildah and podman keep everything in a directory that is gone afterwards."""
    directory = tmp_path_factory.mktemp("containers")
    on_overlay = _run("stat", "--file-system", "--format", "%T", directory).stdout.strip() == "overlayfs"
    (directory / "storage.conf").write_text(
        f'[storage]\ndriver = "{"vfs" if on_overlay else "overlay"}"\n'
        f'graphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n'
    )
    (directory / "containers.conf").write_text('[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n')
    yield {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        "CONTAINERS_CONF": str(directory / "containers.conf"),
    }
    for mount in (directory / "graph" / "overlay", directory / "graph"):
        subprocess.run(["umount", "--recursive", mount], capture_output=True, check=False)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def image(storage: dict[str, str], base_system: Path) -> str:
    """The image as `make container` builds it, but for its base."""
    container = _run("buildah", "from", "scratch", env=storage).stdout.strip()
    _run("buildah", "add", "--quiet", container, base_system, "/", env=storage)
    _run("buildah", "commit", "--quiet", "--rm", container, NAME, env=storage)
    _run(ROOT / "scripts/build-container", "--isolation", "chroot", "--build-arg", f"BASE={NAME}", env=storage)
    return "localhost/cloudmanager"


@pytest.fixture(scope="session")
def podman(storage: dict[str, str], image: str) -> Iterator[Podman]:
    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = ["podman", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=storage)

    yield run
    run("rm", "--all", "--force")
