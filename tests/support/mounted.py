"""Certificates in a mounted volume, changed as the kubelet does it: a link to the whole set is swapped."""

import shutil
from pathlib import Path


def publish_files(folder: Path, number: int, *, key: str, chain: str, roots: str) -> None:
    """Put the set in place, the first one (0) or another one (any other number than before)."""
    made = folder / f"..{number}"
    made.mkdir(parents=True)
    texts = {"key": key, "cert-chain": chain, "root-cert": roots}
    for name, text in texts.items():
        (made / f"{name}.pem").write_text(text)
    new, link = folder / "..data_tmp", folder / "..data"
    old = link.readlink() if link.is_symlink() else None
    new.symlink_to(made.name)
    new.rename(link)
    if old is not None:
        shutil.rmtree(folder / old)
        return
    for name in texts:
        (folder / f"{name}.pem").symlink_to(f"..data/{name}.pem")
