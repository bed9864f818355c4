"""A model as it is served: what one request answers with, whatever is swapped meanwhile."""

from dataclasses import dataclass, field
from datetime import datetime

from model.contract.manifest import Manifest
from service.inference.engine import Engine
from service.inference.files.priors import Priors


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that is loaded, warm and checked.

    Attributes:
        name: in addresses.
        version: whole number as text.
        sha256: of the file that runs, hexadecimal.
        manifest: of that file, its precision included.
        engine: that runs it.
        loaded_at: UTC.
        priors: of the table beside the file, by name.
        files: sha256 of the file of this version, and of the variant beside it where there is one.
    """

    name: str
    version: str
    sha256: str
    manifest: Manifest
    engine: Engine
    loaded_at: datetime
    priors: Priors = field(default_factory=dict)
    files: tuple[str, ...] = ()
