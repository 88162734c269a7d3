"""The configuration of a local provider."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{path} is not an absolute path")
    return path


Directory = Annotated[Path, AfterValidator(_absolute)]


class LocalSettings(BaseModel):
    """Image files and block devices of this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[Directory, ...] = Field(
        (),
        description="Directories whose image files can be exported, with everything below them. "
        "A name that is in several of them is refused: use the absolute path.",
        json_schema_extra={"example": ["/srv/images"]},
    )
    allow_backing_from: tuple[Directory, ...] = Field(
        (),
        description="Directories that backing files may be in. Empty: an image that needs another file is refused.",
        json_schema_extra={"example": ["/srv/images/base"]},
    )
    devices: bool = Field(False, description="Export this machine's block devices and partitions too.")
