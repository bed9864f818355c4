"""`fieldmark classify PATH… --out DIR --ray ADDRESS`: checks before the work, without Ray where that is missing."""

import os

from service.commands.folder.command import refusing
from service.commands.folder.given import Given
from service.commands.folder.sources import Sources
from service.commands.folder.table.opening import FILES, check_output
from service.errors import InvalidOption
from service.http.api.schemas import PhotosOptions
from service.settings import Settings


def classify(given: Given, options: PhotosOptions, settings: Settings, address: str, gpus: float) -> int:
    """Classify photos on a Ray cluster into a folder of Parquet files.

    Args:
        given: photos and the folder.
        options: of the answers.
        settings: of the model.
        address: of the cluster, HOST:PORT; `auto` finds this machine's; `local` starts one for this command.
        gpus: of each actor; 0 for actors that have a core each.

    Returns:
        The exit code, as `folder.command.classify`.
    """
    return refusing(_classify(given, options, settings, address, gpus))


async def _classify(given: Given, options: PhotosOptions, settings: Settings, address: str, gpus: float) -> int:
    if given.out is None or given.format not in (None, "parquet"):
        raise InvalidOption("`--ray` writes a folder of Parquet files: name it with `--out DIR`.")
    if options.individual:
        raise InvalidOption("`--individual` is of a few photos, whose answers are printed.")
    if settings.device == "cuda" and not gpus:
        raise InvalidOption("`--device cuda` with `--ray` needs `--ray-gpus`, the GPUs of each worker.")
    sources = Sources(given.paths, given.files_from)
    sources.check()
    check_output(given.out, FILES)
    # Read where Ray is imported: its threads may outlive the connection by a moment, and would start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        from service.commands.ray_data.job import run
    except ImportError as error:
        raise InvalidOption("`--ray` needs the extra `ray`: pip install 'fieldmark[ray]'.") from error
    return await run(given, sources, options, settings, address, gpus)
