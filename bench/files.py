"""Files that appear whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

from bench.errors import StoreError


def place(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all, whoever else writes the same; makes its folder."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise StoreError(f"{path} cannot be written ({err.strerror})") from err
    return path
