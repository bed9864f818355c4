"""`fieldmark-train export`: what is fitted to photos beside the network."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.contract.taxonomy import Taxonomy
from model.explain.fitted import NOTHING
from training.calibration.fitted import sets_of
from training.calibration.outputs import TRAINED, Outputs
from training.commands import export as module
from training.commands.export import load_source, pooled_vectors, variant_photos
from training.errors import DatasetError, TrainingError
from training.fit.folds import fit_folds
from training.fit.job import Job
from training.fit.loop import fit


def test_the_axes_of_the_embedding_are_those_of_the_training_photos(make_job: Callable[..., Job]) -> None:
    """Of the answers that a run kept; of the data set's where it kept none; without photos there are none."""
    job = make_job()
    fit(job)
    assert load_source(job.out).fitted == NOTHING
    given = load_source(job.out, dataset=job.dataset).fitted.embedding
    fit(dataclasses.replace(job, keep_outputs=True))
    kept = load_source(job.out).fitted.embedding
    assert given is not None
    assert kept is not None
    assert given.num_photos == len(job.dataset.train) > kept.num_photos > 2
    trained = Outputs.read(job.out / TRAINED)
    assert trained is not None
    source = load_source(job.out, dataset=job.dataset)
    samples = [sample for sample in job.dataset.train if str(sample.path) in trained.path]
    pooled = pooled_vectors(source.network, source.manifest, samples, job.dataset.banner)
    order = np.argsort([str(sample.path) for sample in samples])
    np.testing.assert_allclose(pooled[order], trained.pooled[np.argsort(trained.path)], rtol=1e-3, atol=1e-4)


def test_maps_of_marks_that_are_not_there_are_refused(make_job: Callable[..., Job]) -> None:
    """A run without marks has no maps of contributions."""
    job = make_job()
    fit(job)
    with pytest.raises(TrainingError, match="has no marks"):
        load_source(job.out, mark_maps="contributions")
    with pytest.raises(TrainingError, match="has no marks"):
        load_source(job.out, missing=True)
    assert load_source(job.out, placing="centres").manifest.placed_by_centres
    assert not load_source(job.out).manifest.placed_by_centres


def test_taxa_travel_from_the_data_or_are_given_at_export(make_job: Callable[..., Job], tmp_path: Path) -> None:
    """A run keeps those of its data; a finished run, or a file, takes those of a table instead."""
    taxonomy = Taxonomy(ranks=("genus",), rows=(("Ruber",), ("Viridis",), ("Caerulus",)))
    job = make_job()
    fit(job)
    assert None is load_source(job.out).manifest.taxonomy
    named = make_job("named", dataset=dataclasses.replace(job.dataset, taxonomy=taxonomy))
    fit(named)
    assert taxonomy == load_source(named.out).manifest.taxonomy
    table = tmp_path / "taxa.csv"
    table.write_text("class,order\nGreen Bird,B\nRed Bird,A\nBlue Bird,B\n")
    given = Taxonomy(ranks=("order",), rows=(("A",), ("B",), ("B",)))
    assert [given] * 2 == [load_source(one.out, taxonomy=table).manifest.taxonomy for one in (job, named)]
    table.write_text("class,order\nGreen Bird,B\n")
    with pytest.raises(DatasetError, match=r"taxa\.csv: 2 of 3 classes have no row: 'Red Bird', 'Blue Bird'"):
        load_source(job.out, taxonomy=table)


def test_sets_follow_the_temperature(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with folds makes them for any; a file of another temperature has none, as its answers stay with the run."""
    job = make_job()
    fit_folds(job, 2)
    source = load_source(job.out)
    assert source.manifest.sets == sets_of(job.out, source.manifest.temperature)
    assert source.manifest.sets is not None
    assert len(job.dataset.train) == source.manifest.sets.num_photos
    assert load_source(job.out, temperature=3.0).manifest.sets == sets_of(job.out, 3.0) != source.manifest.sets
    monkeypatch.setattr(module, "load_network", lambda _: (source.network, source.manifest))
    monkeypatch.setattr(module, "load_fitted", lambda _: source.fitted)
    file = Path("1.onnx")
    assert source.manifest.sets == load_source(file, name="other").manifest.sets
    assert None is load_source(file, temperature=3.0).manifest.sets


def test_a_run_with_folds_is_compared_on_photos_that_it_was_trained_on(make_job: Callable[..., Job]) -> None:
    """It holds none out, and says so; none of the compared photos is one of the calibration."""
    job = make_job()
    without = job.recipe.with_values({"data.held_out": 0.0, "run.selection": "last"})
    compared, calibration = variant_photos(job.dataset, without, job.recipe.data.resize, most=9, calibrated=5)
    assert compared.trained_on
    assert (9, 9, 5) == (len(compared.images), len(compared.labels), len(calibration))
    assert not {image.tobytes() for image in compared.images} & {image.tobytes() for image in calibration}
    assert not variant_photos(job.dataset, job.recipe, job.recipe.data.resize)[0].trained_on
    alone = dataclasses.replace(job.dataset, train=job.dataset.train[:1])
    with pytest.raises(TrainingError, match="needs training photos to calibrate on and others to be measured on"):
        variant_photos(alone, without, job.recipe.data.resize)
