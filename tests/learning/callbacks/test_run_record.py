"""The revision in the manifest is the package's own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eigen_lightning.learning.callbacks.run_record import git_revision, installed_version


def git(folder: Path, *command: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@x")
    done = subprocess.run(["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the package, and its revision as git says."""
    root = tmp_path / "checkout"
    (root / "eigen_lightning").mkdir(parents=True)
    (root / "eigen_lightning" / "__init__.py").write_text("")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def test_a_checkouts_revision_and_whether_files_differ(checkout: Path) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    assert git_revision(checkout) == revision
    (checkout / "eigen_lightning" / "__init__.py").write_text("changed")
    assert git_revision(checkout) == f"{revision}-dirty"


def test_a_work_tree_beside_the_checkout_counts(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "-q", str(tmp_path / "beside"))
    assert git_revision(tmp_path / "beside") == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("folder", [".venv/lib/python3.12/site-packages", "."])
def test_another_projects_revision_is_not_the_packages(tmp_path: Path, folder: str) -> None:
    (tmp_path / "theirs.txt").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "theirs")
    root = tmp_path / folder
    (root / "eigen_lightning").mkdir(parents=True)
    (root / "eigen_lightning" / "__init__.py").write_text("")
    assert git_revision(root) is None


def test_without_git_there_is_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("git") is None
    assert git_revision(checkout) is None


def test_a_hooks_repository_is_not_asked(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_revision(checkout) == revision


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("torch")
    assert installed_version("a-package-that-nobody-installed") is None
